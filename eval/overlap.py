"""Word and character overlap of a response with its reference: ROUGE-L and chrF, by their reference libraries.

ROUGE-L: Lin 2004, https://aclanthology.org/W04-1013 (library ``rouge_score``, no stemming). It sees only runs of
a-z and 0-9: text in other scripts scores 0, so read chrF there.
chrF: Popović 2015, https://aclanthology.org/W15-3049 (library ``sacrebleu``, its default of 6 characters, beta 2).
"""

from __future__ import annotations

from collections.abc import Sequence


def measure_rouge_l(responses: Sequence[str], references: Sequence[str]) -> list[float]:
    """The F1 of the longest common subsequence of words, per item, in 0..1."""
    # Imported on use: the library pulls in a language toolkit that takes a second to load.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(references, responses, strict=True)
    return [float(scorer.score(reference, response)["rougeL"].fmeasure) for reference, response in pairs]


def measure_corpus_chrf(responses: Sequence[str], references: Sequence[str]) -> float:
    """chrF over all items together, in 0..100 as sacrebleu prints it; 0 for no items."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().corpus_score(list(responses), [list(references)]).score) if responses else 0.0


def measure_sentence_chrf(responses: Sequence[str], references: Sequence[str]) -> list[float]:
    """chrF of each item alone, in 0..100; their mean is not the corpus figure."""
    from sacrebleu.metrics.chrf import CHRF

    metric = CHRF()
    pairs = zip(responses, references, strict=True)
    return [float(metric.sentence_score(response, [reference]).score) for response, reference in pairs]

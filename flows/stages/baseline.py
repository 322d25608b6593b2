"""The baseline that every classification run is held against: TF-IDF and logistic regression on the same rows."""

from __future__ import annotations

from pathlib import Path

from gptcore.files import read_json_lines


def tfidf_accuracy(train: Path, test: Path) -> float:
    """Test accuracy of word TF-IDF (sublinear counts, words seen at least twice) with logistic regression (C = 10)."""
    # Only here: every process of a flow would load it, and scipy with it, for seconds.
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, labels = _read(train)
    vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2 if len(texts) > 100 else 1)
    features = vectorizer.fit_transform(texts)
    model = LogisticRegression(C=10.0, max_iter=300).fit(features, labels)
    test_texts, test_labels = _read(test)
    return float(model.score(vectorizer.transform(test_texts), test_labels))


def _read(path: Path) -> tuple[list[str], list[str]]:
    rows = read_json_lines(path)
    return [row["text"] for row in rows], [row["label"] for row in rows]

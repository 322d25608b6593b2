"""Text in, numbers out: overlap with references, a judge model's scores, and the statistics of both.

The package sees neither tensors nor trackers. Its name hides the builtin, so import from it: ``from eval.run import
score_responses``.
"""

"""Evaluation: 1:1 verification, ROC, the report page. `facex.eval.run.evaluate_bins` is where to begin."""

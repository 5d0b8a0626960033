"""Evaluation as functions on arrays. `facex.eval.run.evaluate_bins` is where to begin; the protocols by module:

verification (1:1 in folds), facexzoo (its 1:1 variant), roc (curve, TAR@FAR), quality (error versus reject), fusion (views
of a face), templates and ijb (IJB-B/C 1:1; lists in ijb_files), matching and identification (1:N closed and open set).
"""

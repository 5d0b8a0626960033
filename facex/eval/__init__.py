"""Evaluation as functions on arrays. `facex.eval.run.evaluate_bins` is where to begin; the protocols by module:

verification (1:1 in folds), facexzoo (its 1:1 variant), roc (curve, TAR@FAR), quality (error versus reject), fusion
(views of a face), templates and ijb (IJB-B/C 1:1; lists in ijb_files, folder in ijb_faces, the official scripts as
ijb_rules, all of it with a method in ijb_run), matching and identification (1:N closed and open set). pair_lists (1:1
on picture files: PKU-Masked-Face, LFW, MFR2; pair_lists_pku makes lists), ar_database (sunglasses and scarves). Under
occlusion: occlusion (the protocol) and occlusion_run, occlusion_metrics; segmentation (IoU of occlusion maps),
mask_plots (pictures of masks and masked features).
"""

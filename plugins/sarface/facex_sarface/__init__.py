"""SARFace for facex: face parser, region split, policy and recogniser; policy-gradient training of which regions to keep."""

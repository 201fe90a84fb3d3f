"""What runs the researcher's code: trainer and scorer. The judge believes nothing that comes out of here."""

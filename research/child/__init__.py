"""The processes that run the researcher's code: trainer and scorers. The judge trusts nothing that comes out of them."""

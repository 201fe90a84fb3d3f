"""The morning report as files to send: one HTML page, and one picture. `results/report.py` has it as text for the terminal."""

"""Report finished runs on one HTML page, and draw the paper's three figures: `page.py` puts the page together."""

"""Reports on frames and slides: HTML pages, overlays, contact sheets, CSV and JSON. `templates` renders all HTML pages."""

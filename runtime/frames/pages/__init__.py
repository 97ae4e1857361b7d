"""What people look at after an examination: frames with their cells drawn in, a contact sheet, and a page a slide.

`Album` takes its pictures while a frame is open; `draw_overlay`, `draw_contact_sheet` and `compose` show what was found.
"""

"""Files without their patients: headers, names of files and folders, free text, pixels, faces.

Every part takes what a file holds and gives what may leave the house, with a count of what was done. No part
writes an original value anywhere.
"""

"""File formats of data sets and answers, one module each; what the columns mean is the kinds' affair.

Reading gives a `RowSource`, writing takes columns; both need memory for one block, however long the
file. Nothing is converted silently: a file that does not fit is refused with the way to mend it.
"""

"""`tttscale watch`: a page that shows a running run, from the files in its folder only. No torch here."""

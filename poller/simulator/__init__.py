"""An eClinicalWorks to develop against: living practices, the API's recorded rules, limits and faults, and the truth about a run.

``spec`` says what a practice is like; ``world`` holds practices (``practice``: records in ``chart``, life in ``care``, content from
``clinical``); ``answers`` turns requests into answers by the rules of ``search``, ``matching``, ``tokens`` and ``capability``, spoilt by
``faults``; ``server`` and ``control`` put that on the network; ``truth`` is what happened and ``judge`` holds a poller's events against it.
"""

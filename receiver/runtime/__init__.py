"""Putting it together: settings, the wiring that alone chooses drivers, the worker, what it tells its operators."""

SELECT version, form, noise FROM poller.rules

"""gossipsub: messages that everybody who subscribed hears."""

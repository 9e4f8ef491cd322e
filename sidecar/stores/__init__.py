"""Where the budget lives. `keeper` is this sidecar's side; each store is a file behind the keeper's protocol."""

"""What tests share: `raw` speaks HTTP on a bare socket, `world` runs a sidecar between two stand-ins."""

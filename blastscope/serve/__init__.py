"""Bundles as a server of the Open Inference Protocol, over REST and gRPC, for programs in other languages or on other machines.

Needs the extra `serve`. Public names: `server.Server`, `server.BackgroundServer`, `options.ServeOptions`, `options.Limits`,
`options.Tokens`, `audit_log.AuditLog` and `audit_log.check_log`.
"""

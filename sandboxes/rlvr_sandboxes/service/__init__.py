"""The sandbox service: a local backend that runs in a container of its own, and the backend `service` that uses it.

keys.py                                      the key file, and how both sides prove that they have it
wire.py                                      one authenticated connection: frames, and descriptors where needed
messages.py                                  requests and results as frames
serve.py, server.py, held_workers.py         the service
client.py, far_sessions.py, far_workers.py   its client
confinement.py                               what the service gives up, and what its container still has
"""

"""A cluster of hosts: started, shown, extended and stopped from one machine over ssh.

Comes in:   an inventory file with the hosts, their private addresses and a container image or a virtual environment.
Goes out:   a Ray head and its nodes on fixed ports, with a token in a file. Nothing is installed on a host.
"""

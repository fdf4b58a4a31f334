"""The daemon. Where to start reading:

cli.py -> daemon.py     the commands, and the composition of a real node
node.py                 what a node is made of, real or simulated
../protocols/modest.py  how a round goes; trainer.py and aggregator.py are its two sides
../sampling/            who is in a round's committee
net/  compute/          the two seams' implementations: the network, and torch
simulation.py           the same nodes under virtual time
"""

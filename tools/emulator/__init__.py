"""The CPUs our users have, emulated: a Python of each, that any host with apt-get can set up.

    boards.py   which CPUs, operating systems and packages: data
    debian.py   Debian packages unpacked into a folder
    install.py  qemu, the userlands, the wheels and one launcher per board, in a cache folder
    counting.py executed instructions, counted by instructions.c, a plugin of qemu

qemu's user mode runs the real binaries of the other architecture, instruction by instruction. What
comes out is what such a CPU answers, and how many instructions it executes; never how long it
takes.
"""

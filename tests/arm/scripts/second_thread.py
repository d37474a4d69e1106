"""Mark a call while another thread is alive."""

import ctypes
import threading

getpriority = ctypes.CDLL(None).getpriority
release = threading.Event()
thread = threading.Thread(target=release.wait)
getpriority(0x45644765, 0)
thread.start()
getpriority(0x45644765, 1)
release.set()
thread.join()

package clientfd

import (
	"os"

	"golang.org/x/sys/unix"
)

// Ended tells whether the kernel has ended the connection of a descriptor:
// nobody will ever read a request from it again.
func Ended(fuse *os.File) bool {
	fds := []unix.PollFd{{Fd: int32(fuse.Fd()), Events: unix.POLLIN}}
	_, err := unix.Poll(fds, 0)
	return err == nil && fds[0].Revents&unix.POLLERR != 0
}

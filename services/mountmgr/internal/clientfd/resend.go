package clientfd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// notifyResend is FUSE_NOTIFY_RESEND, and outHeaderSize the size of struct
// fuse_out_header: length, code, and a unique of 0 for a notification.
const (
	notifyResend  = 7
	outHeaderSize = 16
)

// Resend makes the kernel put the requests that a dead client has read but not
// answered back into the connection's queue, for its successor. The dead one
// must surely be gone, or a request would be done twice. Kernels before 6.9
// cannot, which is no error: their requests are interrupted some seconds after
// the successor serves.
func Resend(fuse *os.File) error {
	notification := make([]byte, outHeaderSize)
	binary.NativeEndian.PutUint32(notification, outHeaderSize)
	binary.NativeEndian.PutUint32(notification[4:], notifyResend)
	_, err := unix.Write(int(fuse.Fd()), notification)
	switch {
	case err == nil, errors.Is(err, unix.EINVAL):
		return nil
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EPERM):
		return nil // Unmounted, or not yet initialised: nothing was read.
	}
	return fmt.Errorf("ask the kernel to resend requests: %w", err)
}

// Package privateclient plays the kernel's side of a FUSE connection towards a
// JuiceFS client over a socket pair, so that a file system can be used without
// a mount, without /dev/fuse and without any privilege.
//
// The client reads requests with read(2) and answers with write(2); on a pair of
// SOCK_SEQPACKET sockets each of these is one packet, as on /dev/fuse. The
// layout of requests and answers is that of <linux/fuse.h>.
package privateclient

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// RootInode is the inode of the root directory.
const RootInode = 1

// Operations of the protocol.
const (
	opLookup  = 1
	opOpen    = 14
	opRead    = 15
	opWrite   = 16
	opRelease = 18
	opInit    = 26
	opDestroy = 38
)

const (
	requestHeader = 40
	answerHeader  = 16
	// entryOut begins with the inode; its attributes follow after 40 bytes.
	entryOutSize = 40 + attributesSize
	// attributesSize is fuse_attr with blksize and flags, and modeOffset where
	// it has the mode.
	attributesSize = 88
	modeOffset     = 60
	openOutSize    = 16
	writeOutSize   = 8
	// initOutMin is fuse_init_out as of protocol 7.23 and later.
	initOutMin = 64

	// maxRead bounds the data of one answer, in bytes.
	maxRead = 64 << 10
	// maxAnswer is the longest packet that is accepted.
	maxAnswer = answerHeader + maxRead
	maxErrno  = 4095
	// maxForeign allows for the adopting client's answers to requests that a
	// predecessor may have left: up to six million.
	maxForeign = 16 << 20
)

// The protocol version and the abilities that we have as kernel.
const (
	majorVersion = 7
	minorVersion = 45
	readahead    = 128 << 10
	flagBigWrite = 1 << 5
	flagInitExt  = 1 << 30
)

// answerError is an answer with an error number of the file system.
type answerError struct {
	operation string
	errno     unix.Errno
}

func (e *answerError) Error() string { return fmt.Sprintf("%s: %v", e.operation, e.errno) }

func (e *answerError) Unwrap() error { return e.errno }

// encodeRequest puts the header in front of body. Requests are root's: the
// process that asked is not known to the client.
func encodeRequest(operation uint32, unique, inode uint64, body []byte) []byte {
	request := make([]byte, requestHeader, requestHeader+len(body))
	binary.NativeEndian.PutUint32(request, uint32(requestHeader+len(body)))
	binary.NativeEndian.PutUint32(request[4:], operation)
	binary.NativeEndian.PutUint64(request[8:], unique)
	binary.NativeEndian.PutUint64(request[16:], inode)
	return append(request, body...)
}

// decodeAnswer returns unique, error number and data of a packet; unique is 0
// for a notification, whose number stands in place of the error.
func decodeAnswer(packet []byte) (unique uint64, errno unix.Errno, data []byte, err error) {
	if len(packet) < answerHeader || int(binary.NativeEndian.Uint32(packet)) != len(packet) {
		return 0, 0, nil, fmt.Errorf("answer of %d bytes has no valid header", len(packet))
	}
	if binary.NativeEndian.Uint64(packet[8:]) == 0 {
		return 0, 0, packet[answerHeader:], nil
	}
	code := int32(binary.NativeEndian.Uint32(packet[4:]))
	if code > 0 || code < -maxErrno || code != 0 && len(packet) != answerHeader {
		return 0, 0, nil, fmt.Errorf("answer has error number %d and %d bytes", code, len(packet))
	}
	return binary.NativeEndian.Uint64(packet[8:]), unix.Errno(-code), packet[answerHeader:], nil
}

func initBody() []byte {
	body := make([]byte, 64)
	binary.NativeEndian.PutUint32(body, majorVersion)
	binary.NativeEndian.PutUint32(body[4:], minorVersion)
	binary.NativeEndian.PutUint32(body[8:], readahead)
	binary.NativeEndian.PutUint32(body[12:], flagBigWrite|flagInitExt)
	return body
}

func readBody(handle, offset uint64, size uint32) []byte {
	body := make([]byte, 40)
	binary.NativeEndian.PutUint64(body, handle)
	binary.NativeEndian.PutUint64(body[8:], offset)
	binary.NativeEndian.PutUint32(body[16:], size)
	binary.NativeEndian.PutUint32(body[32:], unix.O_RDWR)
	return body
}

func writeBody(handle, offset uint64, data []byte) []byte {
	body := readBody(handle, offset, uint32(len(data)))
	return append(body, data...)
}

func openBody() []byte {
	body := make([]byte, 8)
	binary.NativeEndian.PutUint32(body, unix.O_RDWR)
	return body
}

func releaseBody(handle uint64) []byte {
	body := make([]byte, 24)
	binary.NativeEndian.PutUint64(body, handle)
	binary.NativeEndian.PutUint32(body[8:], unix.O_RDWR)
	return body
}

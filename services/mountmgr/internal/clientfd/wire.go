package clientfd

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Closed is the payload by which a peer tells that it keeps what it was sent.
const Closed = "CLOSE"

const (
	// receiveSize is more than the longest settings of any client.
	receiveSize = 256
	// receiveFiles is more than a client ever sends.
	receiveFiles = 4
	// noSettings stands for settings that nobody knows yet.
	noSettings = "FUSE"
)

// Send sends one message: the payload, which must not be empty, and duplicates
// of files. It blocks until the deadline of conn.
func Send(conn *net.UnixConn, payload []byte, files ...*os.File) error {
	descriptors := make([]int, len(files))
	for i, file := range files {
		descriptors[i] = int(file.Fd())
	}
	if _, _, err := conn.WriteMsgUnix(payload, unix.UnixRights(descriptors...), nil); err != nil {
		return fmt.Errorf("send to the client: %w", err)
	}
	return nil
}

// Offer sends what a server says first: settings, which may be unknown, and the
// descriptors [null, fuse]; [null] alone when fuse is nil.
func Offer(conn *net.UnixConn, settings []byte, null, fuse *os.File) error {
	if len(settings) == 0 {
		settings = []byte(noSettings)
	}
	if fuse == nil {
		return Send(conn, settings, null)
	}
	return Send(conn, settings, null, fuse)
}

// Receive reads one message until the deadline of conn. The caller owns the
// files. An empty payload says that the peer has closed the connection.
func Receive(conn *net.UnixConn) ([]byte, []*os.File, error) {
	data := make([]byte, receiveSize)
	control := make([]byte, unix.CmsgSpace(receiveFiles*4))
	// The net package always passes MSG_CMSG_CLOEXEC.
	count, controlCount, flags, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		return nil, nil, fmt.Errorf("receive from the client: %w", err)
	}
	files := rights(control[:controlCount])
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		CloseFiles(files)
		return nil, nil, errors.New("receive from the client: the message is longer than any client's")
	}
	return data[:count], files, nil
}

// rights opens every descriptor of control.
func rights(control []byte) []*os.File {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, message := range messages {
		descriptors, err := unix.ParseUnixRights(&message)
		if err != nil {
			continue
		}
		for _, descriptor := range descriptors {
			files = append(files, os.NewFile(uintptr(descriptor), "received"))
		}
	}
	return files
}

// CloseFiles closes all of files.
func CloseFiles(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

// PeerCredentials returns who is at the other end, as the kernel recorded it;
// pid 0 when it is not in our pid namespace.
func PeerCredentials(conn *net.UnixConn) (unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return unix.Ucred{}, fmt.Errorf("read peer credentials: %w", err)
	}
	var credentials *unix.Ucred
	var result error
	err = raw.Control(func(descriptor uintptr) {
		credentials, result = unix.GetsockoptUcred(int(descriptor), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, result); err != nil {
		return unix.Ucred{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return *credentials, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// keep speaks the client's protocol for passing on its descriptor: the server
// talks first, with what it holds; the client may answer with what it has.
func keep(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return fmt.Errorf("listen at %s: %w", path, err)
	}
	listener.SetUnlinkOnClose(false) // As after a plugin that was killed.
	go func() {
		<-ctx.Done()
		_ = listener.Close()
	}()
	held := []byte("FUSE")
	descriptor := -1
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return ctx.Err()
		}
		held, descriptor = exchange(conn, held, descriptor)
		_ = conn.Close()
	}
}

// exchange is one connection of a client; it returns what is held after it.
func exchange(conn *net.UnixConn, held []byte, descriptor int) ([]byte, int) {
	descriptors := []int{0}
	if descriptor >= 0 {
		descriptors = append(descriptors, descriptor)
	}
	if _, _, err := conn.WriteMsgUnix(held, unix.UnixRights(descriptors...), nil); err != nil {
		return held, descriptor
	}
	payload, rights := make([]byte, 120), make([]byte, unix.CmsgSpace(4))
	n, rightsLength, _, _, err := conn.ReadMsgUnix(payload, rights)
	if err != nil || n == 0 {
		return held, descriptor
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsLength])
	if err != nil || len(messages) == 0 {
		return held, descriptor
	}
	received, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(received) == 0 {
		return held, descriptor
	}
	if string(payload[:n]) == "CLOSE" {
		_ = unix.Close(received[0])
		return held, descriptor
	}
	return payload[:n], received[0]
}

//go:build kernel

package vault_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/libs/fdpass"
	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
)

// Root is needed to become somebody else.
func TestOnlyTheOwnUserMayConnect(t *testing.T) {
	socket := serve(t)
	// The modes are the first guard; this is about the second.
	if err := errors.Join(os.Chmod(filepath.Dir(socket), 0o755), os.Chmod(socket, 0o666)); err != nil {
		t.Fatal(err)
	}
	connected := make(chan int, 1)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // For ever: the thread ends with the goroutine.
		fd, err := connectAs(65534, socket)
		connected <- fd
		failed <- err
	}()
	fd, err := <-connected, <-failed
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "stranger")
	defer func() { _ = file.Close() }()
	stream, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	unixStream, isUnix := stream.(*net.UnixConn)
	if !isUnix {
		t.Fatalf("got a %T", stream)
	}
	conn := fdpass.NewConn(unixStream)
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	list := &vaultv1.Request{Operation: &vaultv1.Request_List{List: &vaultv1.List{}}}
	_ = conn.Send(ctx, list) // It may be refused before that.
	if _, err := conn.Receive(ctx, new(vaultv1.Response)); err == nil || ctx.Err() != nil {
		t.Errorf("the vault answered a stranger: %v, %v", err, ctx.Err())
	}
}

// connectAs changes the user of the calling thread alone.
func connectAs(uid uintptr, socket string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	// Not the gid: it is the file that lets everybody in.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
		return fd, errno
	}
	return fd, unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
}

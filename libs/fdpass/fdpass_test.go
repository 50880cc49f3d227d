package fdpass_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/juicefs-csi/driver/libs/fdpass"
)

func text(value string) proto.Message { return wrapperspb.String(value) }

// pair connects two ends over a socket file.
func pair(t *testing.T) (*fdpass.Conn, *fdpass.Conn) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := fdpass.Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client, err := fdpass.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return client, server
}

// rawPair gives one end as a bare descriptor, to send what Conn would not.
func rawPair(t *testing.T) (int, *fdpass.Conn) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(ends[0]) })
	file := os.NewFile(uintptr(ends[1]), "pair")
	defer file.Close()
	socket, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	unixConn, isUnix := socket.(*net.UnixConn)
	if !isUnix {
		t.Fatalf("got a %T", socket)
	}
	conn := fdpass.NewConn(unixConn)
	t.Cleanup(func() { _ = conn.Close() })
	return ends[0], conn
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func temporaryFile(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestMessageAndFilesArriveTogether(t *testing.T) {
	client, server := pair(t)
	for _, count := range []int{0, 1, fdpass.MaxFiles} {
		var files []*os.File
		for range count {
			files = append(files, temporaryFile(t, "content"))
		}
		if err := client.Send(t.Context(), text("hello"), files...); err != nil {
			t.Fatal(err)
		}
		got := new(wrapperspb.StringValue)
		received, err := server.Receive(t.Context(), got)
		if err != nil {
			t.Fatal(err)
		}
		if got.GetValue() != "hello" || len(received) != count {
			t.Fatalf("got %q with %d files, want hello with %d", got.GetValue(), len(received), count)
		}
		for index, file := range received {
			content, err := io.ReadAll(io.NewSectionReader(file, 0, 100))
			if err != nil || string(content) != "content" {
				t.Fatalf("file %d: %q, %v", index, content, err)
			}
			flags, err := unix.FcntlInt(file.Fd(), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Fatalf("file %d is not close-on-exec (%v)", index, err)
			}
			if _, err := files[index].Stat(); err != nil {
				t.Fatalf("the sender lost its file: %v", err)
			}
		}
		fdpass.CloseFiles(received)
	}
}

func TestLargestMessage(t *testing.T) {
	client, server := pair(t)
	payload := wrapperspb.Bytes(make([]byte, fdpass.MaxMessage-4))
	if size := proto.Size(payload); size != fdpass.MaxMessage {
		t.Fatalf("test message has %d bytes", size)
	}
	if err := client.Send(t.Context(), payload); err != nil {
		t.Fatal(err)
	}
	got := new(wrapperspb.BytesValue)
	if _, err := server.Receive(t.Context(), got); err != nil || len(got.GetValue()) != fdpass.MaxMessage-4 {
		t.Fatalf("got %d bytes, %v", len(got.GetValue()), err)
	}
	for name, message := range map[string]proto.Message{
		"too large": wrapperspb.Bytes(make([]byte, fdpass.MaxMessage-3)),
		"empty":     wrapperspb.String(""),
	} {
		if err := client.Send(t.Context(), message); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// The flags of a /dev/fuse descriptor are shared with everyone who holds it.
func TestBlockingModeIsLeftAlone(t *testing.T) {
	for _, flag := range []int{0, unix.O_NONBLOCK} {
		var ends [2]int
		if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|flag); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(ends[1]) })
		file := os.NewFile(uintptr(ends[0]), "pipe")
		t.Cleanup(func() { file.Close() })
		client, server := pair(t)
		if err := client.Send(t.Context(), text("x"), file); err != nil {
			t.Fatal(err)
		}
		received, err := server.Receive(t.Context(), new(wrapperspb.StringValue))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fdpass.CloseFiles(received) })
		got, err := unix.FcntlInt(uintptr(ends[0]), unix.F_GETFL, 0)
		if err != nil || got&unix.O_NONBLOCK != flag {
			t.Errorf("O_NONBLOCK was %#x, is %#x (%v)", flag, got&unix.O_NONBLOCK, err)
		}
	}
}

func TestBadPacketsLeaveNothingOpen(t *testing.T) {
	file := temporaryFile(t, "")
	rights := func(count int) []byte {
		descriptors := make([]int, count)
		for index := range descriptors {
			descriptors[index] = int(file.Fd())
		}
		return unix.UnixRights(descriptors...)
	}
	valid, err := proto.Marshal(text("valid"))
	if err != nil {
		t.Fatal(err)
	}
	for name, packet := range map[string]struct {
		data   []byte
		rights []byte
	}{
		"too many descriptors": {valid, rights(fdpass.MaxFiles + 1)},
		"far too many":         {valid, rights(250)},
		"too long":             {make([]byte, fdpass.MaxMessage+1), rights(2)},
		"not a message":        {[]byte{0xff, 0xff}, rights(2)},
	} {
		t.Run(name, func(t *testing.T) {
			raw, conn := rawPair(t)
			before := openDescriptors(t)
			if err := unix.Sendmsg(raw, packet.data, packet.rights, nil, 0); err != nil {
				t.Fatal(err)
			}
			if files, err := conn.Receive(t.Context(), new(wrapperspb.StringValue)); !errors.Is(err, errdefs.ErrInvalidArgument) || files != nil {
				t.Errorf("got %v, %v", files, err)
			}
			if after := openDescriptors(t); after != before {
				t.Errorf("%d descriptors before, %d after", before, after)
			}
			if err := unix.Sendmsg(raw, valid, nil, nil, 0); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Receive(t.Context(), new(wrapperspb.StringValue)); err != nil {
				t.Errorf("the connection is unusable afterwards: %v", err)
			}
		})
	}
}

func TestAnEmptyPacketIsTheEndAndLeavesNothingOpen(t *testing.T) {
	raw, conn := rawPair(t)
	rights := unix.UnixRights(int(temporaryFile(t, "").Fd()))
	before := openDescriptors(t)
	// Package unix adds a byte of data.
	header := unix.Msghdr{Control: &rights[0]}
	header.SetControllen(len(rights))
	if _, _, errno := unix.Syscall(unix.SYS_SENDMSG, uintptr(raw), uintptr(unsafe.Pointer(&header)), 0); errno != 0 {
		t.Fatal(errno)
	}
	if files, err := conn.Receive(t.Context(), new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) || files != nil {
		t.Errorf("got %v, %v", files, err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func TestEndOfPeer(t *testing.T) {
	client, server := pair(t)
	if err := client.Send(t.Context(), text("last")); err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	if _, err := server.Receive(t.Context(), new(wrapperspb.StringValue)); err != nil {
		t.Fatalf("the last message is lost: %v", err)
	}
	if _, err := server.Receive(t.Context(), new(wrapperspb.StringValue)); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want io.EOF", err)
	}
	if err := server.Send(t.Context(), text("x")); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want io.EOF", err)
	}
}

func TestContextInterrupts(t *testing.T) {
	client, server := pair(t)
	canceled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(5*time.Millisecond, cancel)
	if _, err := server.Receive(canceled, new(wrapperspb.StringValue)); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want canceled", err)
	}
	limited, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	var err error
	for err == nil { // nobody reads
		err = client.Send(limited, wrapperspb.Bytes(make([]byte, fdpass.MaxMessage/2)))
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want deadline exceeded", err)
	}
	if _, err := server.Receive(t.Context(), new(wrapperspb.BytesValue)); err != nil {
		t.Fatalf("the connection is unusable afterwards: %v", err)
	}
	if err := client.Send(t.Context(), text("again")); err != nil {
		t.Fatalf("the connection is unusable afterwards: %v", err)
	}
}

func TestPeer(t *testing.T) {
	client, server := pair(t)
	want := fdpass.Credentials{PID: int32(os.Getpid()), UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}
	for _, conn := range []*fdpass.Conn{client, server} {
		if got, err := conn.Peer(); err != nil || got != want {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
}

func TestLongPathAndReplacement(t *testing.T) {
	directory := filepath.Join(t.TempDir(), strings.Repeat("long/", 40))
	if err := os.MkdirAll(directory, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(directory, "socket")
	before := openDescriptors(t)
	first, err := fdpass.Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	second, err := fdpass.Listen(path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Fatalf("closing the first listener removed the second's socket: %v, %v", info, err)
	}
	conn, err := fdpass.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(directory)
	if err != nil || len(entries) != 0 {
		t.Fatalf("left over: %v, %v", entries, err)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := fdpass.Listen(path, 0o600); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("replaced a regular file: %v", err)
	}
}

func TestDialBeneath(t *testing.T) {
	outside, inside := t.TempDir(), t.TempDir()
	for _, directory := range []string{outside, filepath.Join(inside, "pod")} {
		if err := os.MkdirAll(directory, 0o700); err != nil {
			t.Fatal(err)
		}
		listener, err := fdpass.Listen(filepath.Join(directory, "socket"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
	}
	for link, target := range map[string]string{
		"link":     filepath.Join(outside, "socket"),
		"dirlink":  outside,
		"relative": "pod/socket",
	} {
		if err := os.Symlink(target, filepath.Join(inside, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(inside, "plain"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.Open(inside)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	before := openDescriptors(t)
	for rel, allowed := range map[string]bool{
		"pod/socket":                            true,
		"pod/./socket":                          true,
		"link":                                  false,
		"relative":                              false,
		"dirlink/socket":                        false,
		"../" + filepath.Base(inside) + "/link": false,
		filepath.Join(outside, "socket"):        false,
		"plain":                                 false,
		"pod":                                   false,
		"missing":                               false,
	} {
		conn, err := fdpass.DialBeneath(t.Context(), root, rel)
		if (err == nil) != allowed {
			t.Errorf("%s: %v", rel, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

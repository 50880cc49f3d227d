package clientfd_test

import (
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/clientfd"
)

const patience = 10 * time.Second

func settings(length int, opcode uint32) []byte {
	data := make([]byte, length)
	binary.NativeEndian.PutUint32(data, uint32(length))
	binary.NativeEndian.PutUint32(data[4:], opcode)
	return data
}

// connection stands for the kernel: one end of a socket pair is the descriptor.
func connection(t *testing.T) (descriptor, kernel *os.File) {
	t.Helper()
	ends, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	descriptor, kernel = os.NewFile(uintptr(ends[0]), "fuse"), os.NewFile(uintptr(ends[1]), "kernel")
	t.Cleanup(func() { descriptor.Close(); kernel.Close() })
	return descriptor, kernel
}

func listen(t *testing.T) (*clientfd.Server, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	server, err := clientfd.Listen(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return server, path
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask receives what the server offers, with the buffers of a client.
func ask(t *testing.T, conn *net.UnixConn) (payload string, descriptors []int) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	data, control := make([]byte, 120), make([]byte, unix.CmsgSpace(2*4))
	count, controlCount, flags, _, err := conn.ReadMsgUnix(data, control)
	if err != nil {
		t.Fatal(err)
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		t.Fatal("the offer does not fit the client's buffers")
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlCount])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d control messages, %v", len(messages), err)
	}
	descriptors, err = unix.ParseUnixRights(&messages[0])
	if err != nil {
		t.Fatal(err)
	}
	return string(data[:count]), descriptors
}

func giveBack(t *testing.T, conn *net.UnixConn, payload []byte, descriptor int) {
	t.Helper()
	if _, _, err := conn.WriteMsgUnix(payload, unix.UnixRights(descriptor), nil); err != nil {
		t.Fatal(err)
	}
}

func closeAll(descriptors []int) {
	for _, descriptor := range descriptors {
		_ = unix.Close(descriptor)
	}
}

func await(t *testing.T, server *clientfd.Server) clientfd.Served {
	t.Helper()
	select {
	case served := <-server.Served():
		return served
	case <-time.After(patience):
		t.Fatal("no report that the client serves")
		return clientfd.Served{}
	}
}

func TestFirstStart(t *testing.T) {
	for name, test := range map[string]struct {
		offered, returned, want []byte
	}{
		"good bytes come back":          {nil, settings(104, 26), settings(104, 26)},
		"bytes of a 1.2 client":         {nil, settings(56, 26), settings(56, 26)},
		"bytes from before the INIT":    {nil, append([]byte("FUSE"), make([]byte, 100)...), nil},
		"bad bytes do not replace good": {settings(104, 26), append([]byte("FUSE"), make([]byte, 100)...), settings(104, 26)},
		"bad bytes are never offered":   {settings(104, 1), settings(104, 26), settings(104, 26)},
		"length that does not match":    {nil, settings(104, 26)[:80], nil},
		"longer than any client's":      {nil, settings(112, 26), nil},
	} {
		t.Run(name, func(t *testing.T) {
			server, path := listen(t)
			descriptor, _ := connection(t)
			server.SetDescriptor(descriptor, test.offered)
			server.Admit(os.Getpid())
			payload, first := ask(t, dial(t, path))
			if len(first) != 2 {
				t.Fatalf("%d descriptors, want 2", len(first))
			}
			defer closeAll(first)
			if want := "FUSE"; !clientfd.ValidSettings(test.offered) && payload != want {
				t.Errorf("offered %q, want %q", payload, want)
			}
			if clientfd.ValidSettings(test.offered) && payload != string(test.offered) {
				t.Errorf("the known settings were not offered")
			}
			second := dial(t, path)
			_, ignored := ask(t, second)
			closeAll(ignored)
			giveBack(t, second, test.returned, first[1])
			served := await(t, server)
			if served.PID != os.Getpid() || string(served.Settings) != string(test.want) {
				t.Errorf("got %+v, want settings %x", served, test.want)
			}
		})
	}
}

func TestAskingTakesNothingAway(t *testing.T) {
	server, path := listen(t)
	descriptor, kernel := connection(t)
	server.SetDescriptor(descriptor, nil)
	server.Admit(os.Getpid())
	for range 3 {
		conn := dial(t, path)
		_, descriptors := ask(t, conn)
		closeAll(descriptors)
		_ = conn.Close()
	}
	conn := dial(t, path)
	_, descriptors := ask(t, conn)
	defer closeAll(descriptors)
	giveBack(t, conn, []byte("CLOSE"), descriptors[0])
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v, want the end of the exchange", err)
	}
	select {
	case served := <-server.Served():
		t.Fatalf("CLOSE counted as serving: %+v", served)
	default:
	}
	if !server.Holds() || !server.Connected() {
		t.Fatal("the descriptor is gone")
	}
	kernel.Close()
	if server.Connected() {
		t.Fatal("the end of the kernel's side was not seen")
	}
}

func TestGate(t *testing.T) {
	server, path := listen(t)
	descriptor, _ := connection(t)
	server.SetDescriptor(descriptor, nil)
	conn := dial(t, path)
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Fatalf("answered before the gate was open: %v", err)
	}
	server.Admit(os.Getpid())
	_, descriptors := ask(t, conn)
	closeAll(descriptors)
	server.Admit(os.Getpid() + 1)
	if _, err := dial(t, path).Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("another process was answered: %v", err)
	}
}

func TestDropAndDuplicate(t *testing.T) {
	server, _ := listen(t)
	descriptor, _ := connection(t)
	server.SetDescriptor(descriptor, settings(104, 26))
	duplicate, got, err := server.Duplicate()
	if err != nil || string(got) != string(settings(104, 26)) {
		t.Fatalf("%x, %v", got, err)
	}
	defer duplicate.Close()
	server.Drop()
	if server.Holds() || server.Connected() {
		t.Fatal("still holds the descriptor")
	}
	if _, err := duplicate.Stat(); err != nil {
		t.Fatalf("the duplicate was closed as well: %v", err)
	}
	if _, _, err := server.Duplicate(); err == nil {
		t.Fatal("duplicated nothing")
	}
}

package privateclient_test

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/privateclient"
)

const controlInode = 0x7FFFFFFF00000002

// client answers as a JuiceFS client does, from a table of directories.
type client struct {
	descriptor int
	// entries by "parent/name"; the value is the inode.
	entries map[string]uint64
	modes   map[uint64]uint32
	// result is what follows the command in the control file, in pieces.
	result [][]byte
	// name of the control file if it is not the usual one.
	name string
	// twist changes an answer, to test what is refused.
	twist func(operation uint32, packet []byte) []byte

	control []byte
	removed string
	// ended is closed after the last answer.
	ended chan struct{}
}

// finish ends the connection and returns what was removed.
func (c *client) finish(kernel *privateclient.Kernel) string {
	_ = kernel.Close()
	<-c.ended
	return c.removed
}

func (c *client) serve() {
	request := make([]byte, 1<<20)
	for {
		count, err := unix.Read(c.descriptor, request)
		if err != nil || count == 0 {
			return
		}
		operation, unique := binary.NativeEndian.Uint32(request[4:]), binary.NativeEndian.Uint64(request[8:])
		inode, body := binary.NativeEndian.Uint64(request[16:]), request[40:count]
		data, errno := c.answer(operation, inode, body)
		if operation == 2 {
			continue
		}
		packet := make([]byte, 16, 16+len(data))
		binary.NativeEndian.PutUint32(packet, uint32(16+len(data)))
		binary.NativeEndian.PutUint32(packet[4:], uint32(-int32(errno)))
		binary.NativeEndian.PutUint64(packet[8:], unique)
		packet = append(packet, data...)
		if c.twist != nil {
			packet = c.twist(operation, packet)
		}
		if packet != nil {
			_, _ = unix.Write(c.descriptor, packet)
		}
	}
}

func (c *client) answer(operation uint32, inode uint64, body []byte) (data []byte, errno unix.Errno) {
	switch operation {
	case 26:
		data = make([]byte, 64)
		binary.NativeEndian.PutUint32(data, 7)
	case 1:
		name := strings.TrimRight(string(body), "\x00")
		found := c.entries[string(rune('0'+inode))+"/"+name]
		if name == c.name || c.name == "" && name == ".control" {
			found = controlInode
		}
		if found == 0 {
			return nil, unix.ENOENT
		}
		data = make([]byte, 128)
		binary.NativeEndian.PutUint64(data, found)
		mode, special := c.modes[found]
		if !special {
			mode = unix.S_IFDIR | 0o755
		}
		binary.NativeEndian.PutUint32(data[100:], mode)
	case 14:
		data = make([]byte, 16)
		binary.NativeEndian.PutUint64(data, 77)
	case 16:
		message := body[40:]
		c.control = append(c.control, message...)
		c.removed = string(rune('0'+binary.BigEndian.Uint64(message[8:]))) + "/" + string(message[17:17+message[16]])
		data = make([]byte, 8)
		binary.NativeEndian.PutUint32(data, uint32(len(message)))
	case 15:
		if len(c.result) > 0 {
			c.control, c.result = append(c.control, c.result[0]...), c.result[1:]
		}
		data = c.control[min(int(binary.NativeEndian.Uint64(body[8:])), len(c.control)):]
	}
	return data, 0
}

func start(t *testing.T, c *client) *privateclient.Kernel {
	t.Helper()
	kernel, descriptor, err := privateclient.Pair()
	if err != nil {
		t.Fatal(err)
	}
	c.descriptor = int(descriptor.Fd())
	c.ended = make(chan struct{})
	go func() { c.serve(); close(c.ended) }()
	t.Cleanup(func() { c.finish(kernel); descriptor.Close() })
	return kernel
}

func progress(count uint64) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{0xFE}, count), make([]byte, 8)...)
}

func tree() map[string]uint64 {
	return map[string]uint64{"1/a": 2, "2/volume": 3, "1/volume": 4, "1/file": 5}
}

func TestRemoveTree(t *testing.T) {
	for name, test := range map[string]struct {
		path    string
		result  [][]byte
		removed string
		want    error
	}{
		"at the root":    {"/volume", [][]byte{{0}}, "1/volume", nil},
		"deeper":         {"/a/volume", [][]byte{{0}}, "2/volume", nil},
		"missing":        {"/a/other", nil, "", nil},
		"missing parent": {"/b/volume", nil, "", nil},
		"slow, in pieces": {
			"/volume", [][]byte{nil, progress(7)[:5], progress(7)[5:], nil, {0xFF, 0, 0, 0, 2, '{'}, {'}', 0}}, "1/volume", nil,
		},
		"gone meanwhile":    {"/volume", [][]byte{{byte(unix.ENOENT)}}, "1/volume", nil},
		"refused":           {"/volume", [][]byte{progress(1), {byte(unix.EPERM)}}, "1/volume", unix.EPERM},
		"not a directory":   {"/file", nil, "", errdefs.ErrFailedPrecondition},
		"parent is no dir":  {"/file/volume", nil, "", errdefs.ErrFailedPrecondition},
		"root":              {"/", nil, "", errdefs.ErrInvalidArgument},
		"empty":             {"", nil, "", errdefs.ErrInvalidArgument},
		"relative":          {"volume", nil, "", errdefs.ErrInvalidArgument},
		"not clean":         {"/a/../volume", nil, "", errdefs.ErrInvalidArgument},
		"slash at the end":  {"/volume/", nil, "", errdefs.ErrInvalidArgument},
		"name is too long":  {"/" + strings.Repeat("x", 256), nil, "", errdefs.ErrInvalidArgument},
		"huge data refused": {"/volume", [][]byte{{0xFF, 0xFF, 0, 0, 0}}, "1/volume", errAny},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{entries: tree(), modes: map[uint64]uint32{5: unix.S_IFREG | 0o644}, result: test.result}
			kernel := start(t, c)
			if err := kernel.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			var counts []uint64
			err := kernel.RemoveTree(t.Context(), test.path, func(count uint64) { counts = append(counts, count) })
			if errors.Is(test.want, errAny) && err != nil {
				err = errAny
			}
			if name == "slow, in pieces" && (len(counts) != 1 || counts[0] != 7) {
				t.Errorf("progress %v", counts)
			}
			if err := kernel.Destroy(t.Context()); err != nil {
				t.Errorf("the connection is unusable afterwards: %v", err)
			}
			if removed := c.finish(kernel); !errors.Is(err, test.want) || removed != test.removed {
				t.Errorf("removed %q, %v; want %q, %v", removed, err, test.removed, test.want)
			}
		})
	}
}

func TestOtherNameOfTheControlFile(t *testing.T) {
	c := &client{entries: tree(), name: ".jfs.control", result: [][]byte{{0}}}
	kernel := start(t, c)
	err := errors.Join(kernel.Init(t.Context()), kernel.RemoveTree(t.Context(), "/volume", nil))
	if removed := c.finish(kernel); err != nil || removed != "1/volume" {
		t.Errorf("removed %q, %v", removed, err)
	}
}

func TestMissingControlFileIsAFailure(t *testing.T) {
	kernel := start(t, &client{entries: tree(), name: "none"})
	err := errors.Join(kernel.Init(t.Context()), kernel.RemoveTree(t.Context(), "/volume", nil))
	if !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

var errAny = errors.New("any error")

func TestOtherAnswersArePassedOver(t *testing.T) {
	c := &client{entries: tree(), result: [][]byte{{0}}}
	c.twist = func(_ uint32, packet []byte) []byte {
		for _, unique := range []uint64{0, 1, 1 << 40} { // a notification and answers to nothing
			other := make([]byte, 16)
			binary.NativeEndian.PutUint32(other, 16)
			binary.NativeEndian.PutUint64(other[8:], unique)
			if unique == 0 {
				binary.NativeEndian.PutUint32(other[4:], 3)
			}
			_, _ = unix.Write(c.descriptor, other)
		}
		return packet
	}
	kernel := start(t, c)
	err := errors.Join(kernel.Init(t.Context()), kernel.RemoveTree(t.Context(), "/a/volume", nil))
	if removed := c.finish(kernel); err != nil || removed != "2/volume" {
		t.Errorf("removed %q, %v", removed, err)
	}
}

func TestBadAnswersAreRefused(t *testing.T) {
	for name, twist := range map[string]func([]byte) []byte{
		"length that does not match": func(packet []byte) []byte { return append(packet, 0) },
		"positive error":             func(packet []byte) []byte { binary.NativeEndian.PutUint32(packet[4:], 5); return packet },
		"half a header":              func(packet []byte) []byte { return packet[:8] },
		"too long":                   func(packet []byte) []byte { return append(packet, make([]byte, 100<<10)...) },
		"entry that is cut": func(packet []byte) []byte {
			binary.NativeEndian.PutUint32(packet, 56)
			return packet[:56]
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := &client{entries: tree(), result: [][]byte{{0}}}
			c.twist = func(operation uint32, packet []byte) []byte {
				if operation == 1 {
					return twist(packet)
				}
				return packet
			}
			kernel := start(t, c)
			if err := kernel.Init(t.Context()); err != nil {
				t.Fatal(err)
			}
			err := kernel.RemoveTree(t.Context(), "/volume", nil)
			if removed := c.finish(kernel); err == nil || removed != "" {
				t.Errorf("removed %q, %v", removed, err)
			}
		})
	}
}

func TestContextInterrupts(t *testing.T) {
	c := &client{twist: func(uint32, []byte) []byte { return nil }}
	kernel := start(t, c)
	gone := errors.New("the client is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(5*time.Millisecond, func() { cancel(gone) })
	if err := kernel.Init(ctx); !errors.Is(err, gone) {
		t.Errorf("got %v, want %v", err, gone)
	}
}

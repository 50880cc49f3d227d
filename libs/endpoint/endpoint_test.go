package endpoint_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/endpoint"
)

func TestParse(t *testing.T) {
	long := "/" + strings.Repeat("x", 106)
	valid := map[string]endpoint.Endpoint{
		"unix:///run/csi.sock": {Network: "unix", Address: "/run/csi.sock"},
		"unix://" + long:       {Network: "unix", Address: long},
		"tcp://127.0.0.1:80":   {Network: "tcp", Address: "127.0.0.1:80"},
		"tcp://:80":            {Network: "tcp", Address: ":80"},
		"tcp://[::1]:80":       {Network: "tcp", Address: "[::1]:80"},
	}
	for text, want := range valid {
		got, err := endpoint.Parse(text)
		if err != nil || got != want {
			t.Errorf("Parse(%q) = %v, %v, want %v", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("Parse(%q).String() = %q", text, got)
		}
	}
	invalid := map[string]string{
		"":                        "neither",
		"/run/csi.sock":           "neither",
		"unix:/run/csi.sock":      "neither",
		"unix://run/csi.sock":     "absolute",
		"unix:///run/../csi.sock": "clean",
		"unix:///":                "absolute",
		"unix://":                 "absolute",
		"unix://" + long + "x":    "108 bytes, a unix socket can have 107",
		"tcp://localhost":         "missing port",
		"http://localhost:80":     `unknown scheme "http"`,
	}
	for text, want := range invalid {
		_, err := endpoint.Parse(text)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want an invalid argument that says %q", text, err, want)
		}
	}
}

func unix(path string) endpoint.Endpoint {
	return endpoint.Endpoint{Network: endpoint.Unix, Address: path}
}

func listen(t *testing.T, at endpoint.Endpoint) *endpoint.Listener {
	t.Helper()
	listener, err := endpoint.Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return listener
}

func TestListenMakesDirectoryAndMode(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "d", "e")
	path := filepath.Join(directory, "s")
	listen(t, unix(path))
	socket, err := os.Lstat(path)
	if err != nil || socket.Mode() != 0o600|os.ModeSocket {
		t.Errorf("socket: mode %v, %v, want 0600", socket.Mode(), err)
	}
	info, err := os.Stat(directory)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory: mode %v, %v, want 0700", info.Mode(), err)
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	stale.(*net.UnixListener).SetUnlinkOnClose(false) //nolint:errcheck // it is one
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	listen(t, unix(path))
	dial(t, path)
}

func dial(t *testing.T, path string) {
	t.Helper()
	connection, err := new(net.Dialer).DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
}

func TestListenLeavesOthersAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	listen(t, unix(path))
	if _, err := endpoint.Listen(t.Context(), unix(path)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("somebody listens: %v", err)
	}
	dial(t, path)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := endpoint.Listen(t.Context(), unix(file)); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the path is a file: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "content" {
		t.Errorf("file: %q, %v", data, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := endpoint.Listen(ended, unix(path)); err == nil {
		t.Error("context is over: no error")
	}
}

func TestVanishedAndClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first := listen(t, unix(path))
	if first.Vanished() {
		t.Error("vanished at once")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if !first.Vanished() {
		t.Error("not vanished when removed")
	}
	second := listen(t, unix(path))
	if !first.Vanished() {
		t.Error("not vanished when replaced")
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other's socket is gone: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("own socket is left behind: %v", err)
	}
}

func TestListenTCP(t *testing.T) {
	listener := listen(t, endpoint.Endpoint{Network: endpoint.TCP, Address: "127.0.0.1:0"})
	if listener.Vanished() {
		t.Error("vanished")
	}
	connection, err := new(net.Dialer).DialContext(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	connection.Close()
}

package custody_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/juicefs-csi/driver/libs/fdpass"
	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/custody"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/vault"
)

// socketPath is short enough for a socket.
func socketPath(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "custody") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(directory) })
	return filepath.Join(directory, "vault.sock")
}

// startVault serves an empty vault until the test is over or stop is called,
// which closes what it holds as the end of its process does.
func startVault(t *testing.T, socket string) (held *vault.Vault, stop func()) {
	t.Helper()
	listener, err := fdpass.Listen(socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	held = vault.New()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- vault.NewServer(held, slog.New(slog.DiscardHandler)).Serve(ctx, listener) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, entry := range held.List() {
			_ = held.Remove(entry.GetMountId())
		}
	})
	t.Cleanup(stop)
	return held, stop
}

func newClient(socket string) *custody.Client {
	return custody.NewClient(socket, slog.New(slog.DiscardHandler))
}

func file(t *testing.T, content string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	opened, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = opened.Close() })
	return opened
}

func TestClientAndVault(t *testing.T) {
	socket := socketPath(t)
	startVault(t, socket)
	client, ctx := newClient(socket), t.Context()
	given := file(t, "content")
	if err := client.Put(ctx, "m", []byte("init"), 7, given); err != nil {
		t.Fatal(err)
	}
	if _, err := given.Stat(); err != nil {
		t.Errorf("the caller's own descriptor: %v", err)
	}
	for range 3 {
		settings, got, err := client.Get(ctx, "m")
		if err != nil {
			t.Fatal(err)
		}
		content := make([]byte, 7)
		if _, err := got.ReadAt(content, 0); err != nil || string(content) != "content" || string(settings) != "init" {
			t.Errorf("get: %q with settings %q, %v", content, settings, err)
		}
		_ = got.Close()
	}
	if held, err := client.List(ctx); err != nil || len(held) != 1 || !held["m"] {
		t.Errorf("List = %v, %v", held, err)
	}
	for range 2 {
		if err := client.Remove(ctx, "m"); err != nil {
			t.Error(err)
		}
	}
	if _, _, err := client.Get(ctx, "m"); !errdefs.IsNotFound(err) {
		t.Errorf("get of a removed mount: %v, want not found", err)
	}
}

func TestAVaultThatIsRestartedIsFoundAgain(t *testing.T) {
	socket := socketPath(t)
	client, ctx := newClient(socket), t.Context()
	if _, err := client.List(ctx); !errdefs.IsUnavailable(err) {
		t.Errorf("list before there is a vault: %v, want unavailable", err)
	}
	_, stop := startVault(t, socket)
	if err := client.Put(ctx, "m", nil, 7, file(t, "x")); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, _, err := client.Get(ctx, "m"); !errdefs.IsUnavailable(err) {
		t.Errorf("get while the vault is away: %v, want unavailable", err)
	}
	startVault(t, socket)
	if _, _, err := client.Get(ctx, "m"); !errdefs.IsNotFound(err) {
		t.Errorf("get from the new vault: %v, want not found", err)
	}
	if err := client.Put(ctx, "m", nil, 7, file(t, "x")); err != nil {
		t.Error(err)
	}
}

// record is a log that a test reads while others write it.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(line)
}

func (r *record) count(text string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.text.String(), text)
}

func TestWatchFillsEveryNewVault(t *testing.T) {
	socket := socketPath(t)
	var log record
	client := custody.NewClient(socket, slog.New(slog.NewTextHandler(&log, nil)))
	fills := make(chan struct{}, 100)
	attempts := 0
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- client.Watch(ctx, func(ctx context.Context) error {
			attempts++
			if attempts == 1 {
				return errors.New("the first attempt fails")
			}
			if err := client.Put(ctx, "m", nil, 7, file(t, "x")); err != nil {
				return err
			}
			fills <- struct{}{}
			return nil
		})
	}()
	for round := range 3 {
		held, stop := startVault(t, socket)
		select {
		case <-fills:
		case <-time.After(30 * time.Second):
			t.Fatalf("vault %d is not filled", round)
		}
		if len(held.List()) != 1 {
			t.Errorf("vault %d holds %v", round, held.List())
		}
		stop()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(fills) != 0 {
		t.Errorf("%d vaults were filled twice", len(fills))
	}
	if count := log.count("the first attempt fails"); count != 1 {
		t.Errorf("the failed attempt was told %d times", count)
	}
}

func TestAVaultThatStaysAwayIsToldOnce(t *testing.T) {
	var log record
	client := custody.NewClient(socketPath(t), slog.New(slog.NewTextHandler(&log, nil)))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // Some attempts.
	defer cancel()
	if err := client.Watch(ctx, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if count := log.count("vault is away"); count != 1 {
		t.Errorf("told %d times", count)
	}
}

// A vault that answers too late must not have its answer taken for that of the
// next call: it would be the descriptor of another mount.
func TestALateAnswerIsNotTakenForAnother(t *testing.T) {
	socket := socketPath(t)
	listener, err := fdpass.Listen(socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	late := make(chan struct{})
	go answerGets(listener, late, file(t, "x"))
	client := newClient(socket)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, _, err := client.Get(ctx, "slow")
		failed <- err
	}()
	late <- struct{}{} // The vault has the request.
	cancel()
	if err := <-failed; !errdefs.IsUnavailable(err) {
		t.Fatalf("get that was given up: %v, want unavailable", err)
	}
	late <- struct{}{} // It answers now.
	settings, got, err := client.Get(t.Context(), "other")
	if err != nil {
		t.Fatal(err)
	}
	_ = got.Close()
	if string(settings) != "other" {
		t.Errorf("the answer is that of mount %s", settings)
	}
}

// answerGets answers Get of the mount "slow" only when late was read twice, and
// every other one at once, with the mount's id as settings.
func answerGets(listener *fdpass.Listener, late <-chan struct{}, held *os.File) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			for {
				var request vaultv1.Request
				if _, err := conn.Receive(context.Background(), &request); err != nil {
					return
				}
				if hello := request.GetHandshake(); hello != nil {
					_ = conn.Send(context.Background(), &vaultv1.Response{Result: &vaultv1.Response_Handshake{
						Handshake: &vaultv1.HandshakeResult{Version: hello.GetVersion(), MinVersion: hello.GetMinVersion()},
					}})
					continue
				}
				id := request.GetGet().GetMountId()
				if id == "slow" {
					<-late
					<-late
				}
				entry := &vaultv1.Entry{MountId: id, Settings: []byte(id)}
				_ = conn.Send(context.Background(), &vaultv1.Response{Result: &vaultv1.Response_Get{
					Get: &vaultv1.GetResult{Entry: entry},
				}}, held)
			}
		}()
	}
}

func TestAVaultOfAnotherVersionIsRefused(t *testing.T) {
	socket := socketPath(t)
	listener, err := fdpass.Listen(socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Receive(context.Background(), new(vaultv1.Request)); err == nil {
			_ = conn.Send(context.Background(), &vaultv1.Response{Result: &vaultv1.Response_Handshake{
				Handshake: &vaultv1.HandshakeResult{Version: 1000, MinVersion: 1000},
			}})
		}
	}()
	if _, err := newClient(socket).List(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("List = %v, want a failed precondition", err)
	}
}

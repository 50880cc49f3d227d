package vault_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/juicefs-csi/driver/libs/apiversion"
	"github.com/juicefs-csi/driver/libs/fdpass"
	vaultv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/vault/v1"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/vault"
)

// serve serves a vault until the test is over and returns its socket.
func serve(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "vault") //nolint:usetesting // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(directory, "vault.sock")
	listener, err := fdpass.Listen(socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- vault.NewServer(vault.New(), slog.New(slog.DiscardHandler)).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		_ = os.RemoveAll(directory)
	})
	return socket
}

func dial(t *testing.T, socket string) *fdpass.Conn {
	t.Helper()
	conn, err := fdpass.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask makes one exchange. The test closes what comes with the answer.
func ask(t *testing.T, conn *fdpass.Conn, request *vaultv1.Request, files ...*os.File) (*vaultv1.Response, []*os.File) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := conn.Send(ctx, request, files...); err != nil {
		t.Fatal(err)
	}
	response := new(vaultv1.Response)
	received, err := conn.Receive(ctx, response)
	if err != nil {
		t.Fatal(err)
	}
	return response, received
}

func wantFailure(t *testing.T, what string, response *vaultv1.Response, want codes.Code) {
	t.Helper()
	if got := codes.Code(response.GetFailure().GetCode()); got != want {
		t.Errorf("%s: %v (%s), want %v", what, got, response.GetFailure().GetMessage(), want)
	}
}

func TestServerAnswersAndLeaksNothing(t *testing.T) {
	conn := dial(t, serve(t))
	file, end := pipe(t)
	extra, extraEnd := pipe(t)
	putRequest := &vaultv1.Request{Operation: &vaultv1.Request_Put{Put: &vaultv1.Put{MountId: "m", Settings: []byte("init"), DeviceMinor: 9}}}
	get := &vaultv1.Request{Operation: &vaultv1.Request_Get{Get: &vaultv1.Get{MountId: "m"}}}
	response, _ := ask(t, conn, putRequest, file, extra)
	wantFailure(t, "put", response, codes.OK)
	_, _ = file.Close(), extra.Close()
	if !open(t, end) || open(t, extraEnd) {
		t.Errorf("the first descriptor is open: %v, a surplus one: %v", open(t, end), open(t, extraEnd))
	}
	before := descriptors(t)
	for range 20 {
		response, received := ask(t, conn, get)
		if entry := response.GetGet().GetEntry(); string(entry.GetSettings()) != "init" || entry.GetDeviceMinor() != 9 || len(received) != 1 {
			t.Fatalf("get: %v with %d descriptors", response, len(received))
		}
		fdpass.CloseFiles(received)
		ask(t, conn, putRequest) // Without a descriptor.
	}
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	remove := &vaultv1.Request{Operation: &vaultv1.Request_Remove{Remove: &vaultv1.Remove{MountId: "m"}}}
	for range 2 {
		response, _ = ask(t, conn, remove)
		wantFailure(t, "remove", response, codes.OK)
	}
	if open(t, end) {
		t.Error("the descriptor is open after its removal")
	}
	response, _ = ask(t, conn, get)
	wantFailure(t, "get of a removed mount", response, codes.NotFound)
}

func TestServerRefuses(t *testing.T) {
	conn := dial(t, serve(t))
	ours := apiversion.Vault()
	handshake := func(version, minVersion uint32) *vaultv1.Request {
		return &vaultv1.Request{Operation: &vaultv1.Request_Handshake{
			Handshake: &vaultv1.Handshake{Version: version, MinVersion: minVersion},
		}}
	}
	for name, c := range map[string]struct {
		request *vaultv1.Request
		want    codes.Code
	}{
		"our version":     {handshake(ours.Version, ours.MinVersion), codes.OK},
		"a newer version": {handshake(ours.Version+9, ours.Version+9), codes.FailedPrecondition},
		"an older one":    {handshake(ours.MinVersion-1, 0), codes.FailedPrecondition},
		"put of nothing":  {&vaultv1.Request{Operation: &vaultv1.Request_Put{Put: &vaultv1.Put{MountId: "m"}}}, codes.NotFound},
		"put of no mount": {&vaultv1.Request{Operation: &vaultv1.Request_Put{Put: &vaultv1.Put{DeviceMinor: 1}}}, codes.InvalidArgument},
	} {
		response, received := ask(t, conn, c.request)
		fdpass.CloseFiles(received)
		wantFailure(t, name, response, c.want)
	}
	response, _ := ask(t, conn, handshake(ours.Version, ours.MinVersion))
	again, _ := ask(t, dial(t, serve(t)), handshake(ours.Version, ours.MinVersion))
	if one, other := response.GetHandshake().GetInstance(), again.GetHandshake().GetInstance(); one == "" || one == other {
		t.Errorf("instances %q and %q of two vaults", one, other)
	}
}

func TestAnUnknownOperationIsAnswered(t *testing.T) {
	conn := dial(t, serve(t))
	file, end := pipe(t)
	// Field 99, as a newer mount manager might send; it is no empty message.
	unknown := new(vaultv1.Request)
	unknown.ProtoReflect().SetUnknown([]byte{0x9a, 0x06, 0x00})
	response, _ := ask(t, conn, unknown, file)
	wantFailure(t, "unknown operation", response, codes.Unimplemented)
	_ = file.Close()
	if open(t, end) {
		t.Error("the descriptor that came with it is open")
	}
}

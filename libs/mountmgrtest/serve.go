package mountmgrtest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/grpcserver"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// Serve serves a mount manager on a unix socket of its own until the test is
// over, with the interceptors of the real one, and returns its endpoint.
func Serve(t testing.TB, service mountmgrv1.MountManagerServiceServer) string {
	t.Helper()
	// t.TempDir is named after the test and may be longer than a socket's path.
	directory, err := os.MkdirTemp("", "mountmgr") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	address := endpoint.Endpoint{Network: endpoint.Unix, Address: filepath.Join(directory, "mountmgr.sock")}
	stop := ServeAt(t, service, address.String())
	t.Cleanup(func() {
		stop()
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	return address.String()
}

// ServeAt is Serve at an endpoint of the caller's choice, until stop is called;
// stop may be called again.
func ServeAt(t testing.TB, service mountmgrv1.MountManagerServiceServer, address string) (stop func()) {
	t.Helper()
	parsed, err := endpoint.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	// The test's own context ends before its clean-up, which still calls.
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	listener, err := endpoint.Listen(ctx, parsed)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	server := grpcserver.New(grpcserver.Options{Name: "fake-mountmgr", Logger: slog.New(slog.DiscardHandler)})
	mountmgrv1.RegisterMountManagerServiceServer(server, service)
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener); close(done) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// Dial connects to a mount manager until the test is over.
func Dial(t testing.TB, address string) mountmgrv1.MountManagerServiceClient {
	t.Helper()
	connection, err := grpcclient.Dial(address, grpcclient.Options{Name: "mountmgrtest"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	})
	return mountmgrv1.NewMountManagerServiceClient(connection)
}

package grpcserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/juicefs-csi/driver/libs/endpoint"
	"github.com/juicefs-csi/driver/libs/grpcclient"
	"github.com/juicefs-csi/driver/libs/grpcserver"
	mountmgrv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/mountmgr/v1"
)

// service answers as the test says.
type service struct {
	mountmgrv1.UnimplementedMountManagerServiceServer
	answer func() error
}

func (s *service) PublishVolume(context.Context, *mountmgrv1.PublishVolumeRequest) (*mountmgrv1.PublishVolumeResponse, error) {
	return &mountmgrv1.PublishVolumeResponse{}, s.answer()
}

func (s *service) WatchMounts(*mountmgrv1.WatchMountsRequest, grpc.ServerStreamingServer[mountmgrv1.WatchMountsResponse]) error {
	return s.answer()
}

type fixture struct {
	service *service
	log     *bytes.Buffer
	address string
	// stop ends the server and waits for it, so that its log can be read.
	stop     func()
	registry *prometheus.Registry
}

func serve(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{service: &service{}, log: &bytes.Buffer{}, registry: prometheus.NewRegistry()}
	at := endpoint.Endpoint{Network: endpoint.Unix, Address: filepath.Join(t.TempDir(), "s")}
	f.address = at.String()
	listener, err := endpoint.Listen(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	server := grpcserver.New(grpcserver.Options{
		Name: "test", Logger: slog.New(slog.NewJSONHandler(f.log, nil)), Registry: f.registry,
	})
	mountmgrv1.RegisterMountManagerServiceServer(server, f.service)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener); close(done) }()
	f.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(f.stop)
	return f
}

// plain is a client without the mapping of libs/grpcclient.
func (f *fixture) plain(t *testing.T) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient(f.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

func TestErrorsBecomeCodes(t *testing.T) {
	f := serve(t)
	client := mountmgrv1.NewMountManagerServiceClient(f.plain(t))
	tests := map[string]struct {
		err  error
		code codes.Code
		text string
	}{
		"sentinel":       {fmt.Errorf("name is empty: %w", errdefs.ErrInvalidArgument), codes.InvalidArgument, "name is empty"},
		"sentinel alone": {errdefs.ErrNotFound, codes.NotFound, "not found"},
		"sentinel first": {fmt.Errorf("%w: try later", errdefs.ErrUnavailable), codes.Unavailable, "unavailable: try later"},
		"conflict":       {fmt.Errorf("changed: %w", errdefs.ErrConflict), codes.FailedPrecondition, "changed: conflict"},
		"status":         {status.Error(codes.Aborted, "busy"), codes.Aborted, "busy"},
		"wrapped status": {
			fmt.Errorf("call: %w", status.Error(codes.Aborted, "busy")),
			codes.Aborted, "call: rpc error: code = Aborted desc = busy",
		},
		"deadline": {fmt.Errorf("probe: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "probe"},
		"canceled": {context.Canceled, codes.Canceled, "context canceled"},
		"other":    {errors.New("whatever"), codes.Unknown, "whatever"},
		"joined":   {errors.Join(errors.New("one"), fmt.Errorf("two: %w", errdefs.ErrInternal)), codes.Internal, "one\ntwo"},
		"panic":    {nil, codes.Internal, "internal error: the log of this service has the stack"},
	}
	for name, test := range tests {
		f.service.answer = func() error {
			if test.err == nil {
				assign(nil)
			}
			return test.err
		}
		_, err := client.PublishVolume(t.Context(), &mountmgrv1.PublishVolumeRequest{})
		checkStatus(t, name, err, test.code, test.text)
		stream, err := client.WatchMounts(t.Context(), &mountmgrv1.WatchMountsRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		checkStatus(t, name+" of a stream", err, test.code, test.text)
	}
}

// assign panics when values is nil.
func assign(values map[string]int) { values["x"] = 1 }

func checkStatus(t *testing.T, name string, err error, code codes.Code, text string) {
	t.Helper()
	got := status.Convert(err)
	if got.Code() != code || got.Message() != text || len(got.Details()) != 0 {
		t.Errorf("%s: %v %q %v, want %v %q without details", name, got.Code(), got.Message(), got.Details(), code, text)
	}
}

func TestErrorsComeBackAsTheyWere(t *testing.T) {
	f := serve(t)
	connection, err := grpcclient.Dial(f.address, grpcclient.Options{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	client := mountmgrv1.NewMountManagerServiceClient(connection)
	for _, sentinel := range []error{
		errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition, errdefs.ErrConflict, errdefs.ErrAborted,
		errdefs.ErrOutOfRange, errdefs.ErrNotImplemented, errdefs.ErrInternal, errdefs.ErrUnavailable,
		errdefs.ErrDataLoss, errdefs.ErrUnauthenticated, context.Canceled, context.DeadlineExceeded,
	} {
		f.service.answer = func() error { return fmt.Errorf("subject: %w", sentinel) }
		_, err := client.PublishVolume(t.Context(), &mountmgrv1.PublishVolumeRequest{})
		if !errors.Is(err, sentinel) || !strings.HasPrefix(err.Error(), "subject") {
			t.Errorf("%v came back as %v", sentinel, err)
		}
		stream, err := client.WatchMounts(t.Context(), &mountmgrv1.WatchMountsRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if !errors.Is(err, sentinel) {
			t.Errorf("%v came back over a stream as %v", sentinel, err)
		}
	}
}

func TestLogHasTheCallButNoSecrets(t *testing.T) {
	f := serve(t)
	client := mountmgrv1.NewMountManagerServiceClient(f.plain(t))
	request := &mountmgrv1.PublishVolumeRequest{
		VolumeId: "volume-1", TargetPath: "/target-1", Secrets: map[string]string{"metaurl": "redis://:hunter2@host/1"},
	}
	f.service.answer = func() error { return nil }
	if _, err := client.PublishVolume(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	f.service.answer = func() error { return fmt.Errorf("no such bucket: %w", errdefs.ErrFailedPrecondition) }
	if _, err := client.PublishVolume(t.Context(), request); err == nil {
		t.Fatal("no error")
	}
	f.stop()
	lines := strings.Split(strings.TrimSpace(f.log.String()), "\n")
	if len(lines) != 1 {
		t.Errorf("%d log lines, want 1 for the failed call:\n%s", len(lines), f.log)
	}
	for _, want := range []string{
		`"level":"WARN"`, `"server":"test"`, `"method":"juicefs.csi.mountmgr.v1.MountManagerService/PublishVolume"`, `"volume_id":"volume-1"`,
		`"target_path":"/target-1"`, `"code":"FailedPrecondition"`, `"error":"no such bucket"`, `"duration":`,
	} {
		if !strings.Contains(lines[0], want) {
			t.Errorf("%s is not in %s", want, lines[0])
		}
	}
	if strings.Contains(f.log.String(), "hunter2") {
		t.Errorf("secret in the log: %s", f.log)
	}
}

func TestPanicIsLoggedWithItsStack(t *testing.T) {
	f := serve(t)
	f.service.answer = func() error {
		assign(nil)
		return nil
	}
	_, err := mountmgrv1.NewMountManagerServiceClient(f.plain(t)).PublishVolume(t.Context(), &mountmgrv1.PublishVolumeRequest{})
	checkStatus(t, "panic", err, codes.Internal, "internal error: the log of this service has the stack")
	f.stop()
	if !strings.Contains(f.log.String(), "grpcserver_test.go") || !strings.Contains(f.log.String(), "assignment to entry in nil map") {
		t.Errorf("log without cause or stack: %s", f.log)
	}
}

func TestMetricsAreShared(t *testing.T) {
	f := serve(t)
	// A second server of the process counts in the same metrics.
	grpcserver.New(grpcserver.Options{Name: "second", Logger: slog.New(slog.NewJSONHandler(f.log, nil)), Registry: f.registry})
	f.service.answer = func() error { return errdefs.ErrAborted }
	_, err := mountmgrv1.NewMountManagerServiceClient(f.plain(t)).PublishVolume(t.Context(), &mountmgrv1.PublishVolumeRequest{})
	if err == nil {
		t.Fatal("no error")
	}
	f.stop()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := 0.0
	for _, family := range families {
		if family.GetName() != "grpc_server_handled_total" {
			continue
		}
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "grpc_code" && label.GetValue() == "Aborted" {
					counted += metric.GetCounter().GetValue()
				}
			}
		}
	}
	if counted != 1 {
		t.Errorf("%v aborted calls counted, want 1", counted)
	}
	if strings.Contains(f.log.String(), "not served") {
		t.Errorf("log: %s", f.log)
	}
}

func TestHealth(t *testing.T) {
	f := serve(t)
	health := healthv1.NewHealthClient(f.plain(t))
	for _, name := range []string{"", "juicefs.csi.mountmgr.v1.MountManagerService"} {
		response, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil || response.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v", name, response, err)
		}
	}
}

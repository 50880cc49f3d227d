package metricsserver_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/juicefs-csi/driver/libs/metricsserver"
)

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestServe(t *testing.T) {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	fault := make(chan error, 1)
	done := make(chan error, 1)
	go func() {
		done <- metricsserver.ServeListener(ctx, listener, metricsserver.Options{
			Gatherer: metricsserver.NewRegistry(), Ready: func(context.Context) error { return <-fault },
		})
	}()
	url := "http://" + listener.Addr().String()
	if code, body := get(t, url+"/metrics"); code != http.StatusOK || !strings.Contains(body, `juicefs_csi_build_info{release="dev"} 1`) {
		t.Errorf("/metrics: %d, %s", code, body)
	}
	fault <- nil
	if code, body := get(t, url+"/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: %d, %s", code, body)
	}
	fault <- errors.New("not yet")
	if code, body := get(t, url+"/healthz"); code != http.StatusServiceUnavailable || body != "not yet\n" {
		t.Errorf("/healthz while not ready: %d, %s", code, body)
	}
	if code, body := get(t, url+"/livez"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("/livez: %d, %s", code, body)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("end: %v", err)
	}
}

func TestServeNowhere(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := metricsserver.Serve(ctx, metricsserver.Options{}); err != nil {
		t.Error(err)
	}
	if err := metricsserver.Serve(t.Context(), metricsserver.Options{Address: "nonsense"}); err == nil {
		t.Error("a wrong address is no error")
	}
}

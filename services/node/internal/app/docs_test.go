package app_test

import (
	"log/slog"
	"testing"

	"github.com/juicefs-csi/driver/libs/grpcserver"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/metricstest"
	"github.com/juicefs-csi/driver/services/node/internal/metrics"
)

func TestMetricsAreDocumented(t *testing.T) {
	registry := metricsserver.NewRegistry()
	if _, err := metrics.New(registry, "node-1"); err != nil {
		t.Fatal(err)
	}
	grpcserver.New(grpcserver.Options{Name: "test", Logger: slog.New(slog.DiscardHandler), Registry: registry})
	metricstest.Documented(t, "../../../../docs/metrics.md", registry, "Every service", "gRPC", "Node plugin")
}

package provisioner

import (
	"log/slog"
	"testing"

	"github.com/juicefs-csi/driver/libs/grpcserver"
	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/libs/metricstest"
)

// The whole controller has no more metrics than this package and the server.
func TestMetricsAreDocumented(t *testing.T) {
	registry := metricsserver.NewRegistry()
	NewMetrics(registry, "node-1")
	if _, err := libraryMetrics(registry); err != nil {
		t.Fatal(err)
	}
	grpcserver.New(grpcserver.Options{Name: "test", Logger: slog.New(slog.DiscardHandler), Registry: registry})
	metricstest.Documented(t, "../../../../docs/metrics.md", registry, "Every service", "gRPC", "Controller")
}

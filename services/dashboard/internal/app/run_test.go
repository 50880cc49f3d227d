package app

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/juicefs-csi/driver/libs/metricsserver"
	"github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/dashboard/v1/dashboardv1connect"
	"github.com/juicefs-csi/driver/services/dashboard/internal/access"
	"github.com/juicefs-csi/driver/services/dashboard/internal/api"
	"github.com/juicefs-csi/driver/services/dashboard/internal/catalog"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	pods, err := catalog.New(fake.NewClientset(), "csi.juicefs.com", "kube-system")
	if err != nil {
		t.Fatal(err)
	}
	handler := routes(&api.Service{Catalog: pods, Gate: access.Open()}, metricsserver.NewRegistry(), slog.New(slog.DiscardHandler))
	for _, tt := range []struct {
		method, path string
		status       int
		body         string
	}{
		{http.MethodGet, "/", http.StatusOK, "<!doctype html>"},
		{http.MethodGet, "/metrics", http.StatusOK, "juicefs_csi_build_info"},
		{http.MethodGet, "/healthz", http.StatusServiceUnavailable, "not complete"},
		{http.MethodGet, "/nothing", http.StatusNotFound, ""},
		{http.MethodPost, "/", http.StatusMethodNotAllowed, ""},
		{http.MethodPost, dashboardv1connect.DashboardServiceGetServerInfoProcedure, http.StatusOK, "{"},
		{http.MethodPost, dashboardv1connect.DashboardServiceListAppPodsProcedure, http.StatusServiceUnavailable, "unavailable"},
	} {
		request := httptest.NewRequest(tt.method, tt.path, strings.NewReader("{}"))
		request.Header.Set("Content-Type", "application/json")
		response := httptest.NewRecorder()
		handler.ServeHTTP(response, request)
		if response.Code != tt.status || !strings.Contains(response.Body.String(), tt.body) {
			t.Errorf("%s %s: %d %.80q, want %d with %q", tt.method, tt.path, response.Code, response.Body, tt.status, tt.body)
		}
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	valid := DefaultOptions()
	if err := valid.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Options){
		"listen":          func(o *Options) { o.Listen = "8088" },
		"driver-name":     func(o *Options) { o.DriverName = "" },
		"mount-namespace": func(o *Options) { o.MountNamespace = "" },
		"auth":            func(o *Options) { o.Auth = "basic" },
		"log-level":       func(o *Options) { o.LogLevel = "loud" },
	} {
		options := DefaultOptions()
		change(&options)
		if err := options.Validate(); err == nil || !strings.Contains(err.Error(), "--"+name) {
			t.Errorf("a wrong --%s gives %v", name, err)
		}
	}
}

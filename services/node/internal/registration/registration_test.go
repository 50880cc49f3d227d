package registration_test

import (
	"context"
	"strings"
	"testing"

	registrationv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/juicefs-csi/driver/services/node/internal/registration"
)

func TestGetInfo(t *testing.T) {
	info, err := registration.New("csi.juicefs.com", "/csi.sock").GetInfo(t.Context(), &registrationv1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if info.GetType() != "CSIPlugin" || info.GetName() != "csi.juicefs.com" || info.GetEndpoint() != "/csi.sock" ||
		len(info.GetSupportedVersions()) != 1 || info.GetSupportedVersions()[0] != "1.0.0" {
		t.Errorf("got %v", info)
	}
}

func TestWait(t *testing.T) {
	server := registration.New("csi.juicefs.com", "/csi.sock")
	notify := func(status *registrationv1.RegistrationStatus) {
		t.Helper()
		if _, err := server.NotifyRegistrationStatus(t.Context(), status); err != nil {
			t.Fatal(err)
		}
	}
	notify(&registrationv1.RegistrationStatus{PluginRegistered: true})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := server.Wait(ended); err != nil {
		t.Errorf("registered: %v", err)
	}
	// kubelet may say it more than once; nobody must block.
	for range 3 {
		notify(&registrationv1.RegistrationStatus{Error: "name is taken"})
	}
	err := server.Wait(t.Context())
	if err == nil || !strings.Contains(err.Error(), "name is taken") {
		t.Errorf("refused: %v", err)
	}
}

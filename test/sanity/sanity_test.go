package sanity

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"google.golang.org/grpc"

	"github.com/juicefs-csi/driver/libs/grpcclient"
)

// testVolumeSize is what volumes of the suite are to hold, in bytes.
const testVolumeSize = 1 << 30

func TestSanity(t *testing.T) {
	directory := shortDir(t)
	driver, err := InstalledFrom(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if driver.Node == "" {
		driver = startDriver(t, directory)
	}
	awaitReady(t, driver.Node)
	awaitReady(t, driver.Controller)

	config := sanity.NewTestConfig()
	config.Address = strings.Replace(driver.Node, "unix://", "unix:", 1)
	config.ControllerAddress = strings.Replace(driver.Controller, "unix://", "unix:", 1)
	config.TargetPath = filepath.Join(makeTargetDir(t, driver.TargetDir), "targets")
	config.StagingPath = filepath.Join(directory, "staging")
	config.TestVolumeSize = testVolumeSize
	config.TestVolumeParameters = driver.Parameters
	config.SecretsFile = secretsFile(t, directory, driver.Secret)
	advertised := capabilities(t, driver.Node, driver.Controller)
	ginkgo.ReportAfterSuite("skipped tests", func(report ginkgo.Report) { checkSkips(t, report, advertised) })
	sanity.Test(t, config)
}

// makeTargetDir makes the directory of targets, which must be empty again after
// the test. Nothing else may be removed there: below a target that is still
// mounted lies the data of a volume.
func makeTargetDir(t *testing.T, directory string) string {
	t.Helper()
	if err := os.MkdirAll(directory, 0o750); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(directory); err != nil {
			t.Errorf("something is left of the targets: %v", err)
		}
	})
	return directory
}

// secretsFile is what csi-sanity reads Secrets from: those of the calls that a
// StorageClass names a Secret for. JSON is YAML.
func secretsFile(t *testing.T, directory string, secret map[string]string) string {
	t.Helper()
	if len(secret) == 0 {
		return ""
	}
	content, err := json.Marshal(map[string]map[string]string{
		"CreateVolumeSecret": secret, "DeleteVolumeSecret": secret, "NodePublishVolumeSecret": secret,
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(directory, "secrets.yaml")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir is a directory for sockets, whose paths must be short.
func shortDir(t *testing.T) string {
	t.Helper()
	directory, err := os.MkdirTemp("", "sanity") //nolint:usetesting // t.TempDir is named after the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(directory); err != nil {
			t.Error(err)
		}
	})
	return directory
}

func awaitReady(t *testing.T, address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	response, err := csi.NewIdentityClient(dial(t, address)).Probe(ctx, &csi.ProbeRequest{})
	if err != nil || !response.GetReady().GetValue() {
		t.Fatalf("probe of %s: %v, %v", address, response, err)
	}
}

func dial(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpcclient.Dial(address, grpcclient.Options{Name: "sanity"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Close(); err != nil {
			t.Error(err)
		}
	})
	return connection
}

package app

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/volume"
)

func TestLauncherFlags(t *testing.T) {
	for _, c := range []struct {
		args  string
		fault string
	}{
		{"", ""},
		{"--launcher-source=hostPath", ""},
		{"--launcher-source=image --launcher-image=i", ""},
		{"--launcher-source=image", "--launcher-image"},
		{"--launcher-source=disk --launcher-image=i", "--launcher-source"},
		{"--host-root=x", "--host-root"},
	} {
		var options Options
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		options.AddFlags(flags)
		if err := flags.Parse(append(strings.Fields(c.args), "--node-name=n")); err != nil {
			t.Fatal(err)
		}
		err := options.Validate()
		if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%q: %v", c.args, err)
		}
	}
}

func TestDefaultsFromTheEnvironment(t *testing.T) {
	t.Setenv("JUICEFS_ALLOW_UNSAFE_PVC_MOUNT_POD_ANNOTATIONS", "true")
	t.Setenv("ENABLE_NODE_SELECTOR", "1")
	t.Setenv("JFS_NO_UPDATE_CONFIG", "enabled")
	defaults := (&Options{}).defaults(volume.ShareByVolume)
	if !defaults.AllowUnsafeClaimAnnotations || !defaults.NodeSelector || !defaults.NoUpdateConfig {
		t.Errorf("got %+v", defaults)
	}
}

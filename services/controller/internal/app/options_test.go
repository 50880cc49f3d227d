package app

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestDefaultOptionsAreValid(t *testing.T) {
	options, err := DefaultOptions()
	if err != nil {
		t.Fatal(err)
	}
	if err := options.Validate(); err != nil {
		t.Error(err)
	}
}

func TestDefaultOptionsFromEnvironment(t *testing.T) {
	for name, value := range map[string]string{
		"PROVISION_WORKER_THREADS": "7", "KUBE_QPS": "50.5", "KUBE_BURST": "60", "DRIVER_NAME": "other.juicefs.com",
		"JUICEFS_MOUNT_NAMESPACE": "mounts", "JUICEFS_CE_MOUNT_IMAGE": "ce", "JUICEFS_EE_MOUNT_IMAGE": "ee", "POD_NAMESPACE": "driver",
	} {
		t.Setenv(name, value)
	}
	options, err := DefaultOptions()
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	options.AddFlags(flags)
	if err := flags.Parse([]string{"--kube-burst=70"}); err != nil {
		t.Fatal(err)
	}
	if options.Workers != 7 || options.QPS != 50.5 || options.Burst != 70 || options.DriverName != "other.juicefs.com" ||
		options.MountNamespace != "mounts" || options.CommunityImage != "ce" || options.EnterpriseImage != "ee" ||
		options.LeaderElectionNamespace != "driver" {
		t.Errorf("got %+v", options)
	}
	t.Setenv("KUBE_QPS", "fast")
	if _, err := DefaultOptions(); err == nil || !strings.Contains(err.Error(), "KUBE_QPS") {
		t.Errorf("got %v, want it to name KUBE_QPS", err)
	}
}

func TestValidate(t *testing.T) {
	options, err := DefaultOptions()
	if err != nil {
		t.Fatal(err)
	}
	options.Endpoint, options.DriverName, options.LogLevel, options.MountNamespace, options.MountmgrImage = "x", "", "loud", "", ""
	options.Workers, options.LeaderElectionNamespace, options.LeaseDuration, options.QPS = 0, "", time.Second, 0
	err = options.Validate()
	for _, flag := range []string{
		"endpoint", "--driver-name", "--log-level", "--mount-namespace", "--mountmgr-image", "--provision-worker-threads",
		"--leader-election-namespace", "--leader-election-lease-duration", "--kube-qps",
	} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v does not name %s", err, flag)
		}
	}
}

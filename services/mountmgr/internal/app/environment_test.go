package app

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/juicefs-csi/driver/libs/volume"
)

func TestEnvironment(t *testing.T) {
	byDefault := environment{
		shareMode: volume.ShareByVolume, qps: 20, burst: 30, kubeletPort: "10250", kubeletTimeout: 10 * time.Second,
	}
	with := func(change func(*environment)) environment {
		changed := byDefault
		change(&changed)
		return changed
	}
	for name, c := range map[string]struct {
		vars map[string]string
		want environment
	}{
		"nothing":     {nil, byDefault},
		"empty texts": {map[string]string{"KUBE_QPS": "", "FS_SHARE_MOUNT": "", "KUBELET_PORT": ""}, byDefault},
		"not shared":  {map[string]string{"STORAGE_CLASS_SHARE_MOUNT": "false", "FS_SHARE_MOUNT": "0"}, byDefault},
		"by class": {
			map[string]string{"STORAGE_CLASS_SHARE_MOUNT": "true"}, with(func(e *environment) { e.shareMode = volume.ShareByStorageClass }),
		},
		"by file system": {
			map[string]string{"FS_SHARE_MOUNT": "1"}, with(func(e *environment) { e.shareMode = volume.ShareByFileSystem }),
		},
		"the class wins": {
			map[string]string{"FS_SHARE_MOUNT": "1", "STORAGE_CLASS_SHARE_MOUNT": "1"},
			with(func(e *environment) { e.shareMode = volume.ShareByStorageClass }),
		},
		"limits": {
			map[string]string{"KUBE_QPS": "50", "KUBE_BURST": "100", "ENABLE_APISERVER_LIST_CACHE": "true"},
			with(func(e *environment) { e.qps, e.burst = 50, 100 }),
		},
		"kubelet": {
			map[string]string{
				"HOST_IP": "fd00::1", "KUBELET_PORT": "1", "KUBELET_TIMEOUT": "3", "KUBELET_CLIENT_CERT": "/c", "KUBELET_CLIENT_KEY": "/k",
			},
			with(func(e *environment) {
				e.hostIP, e.kubeletPort, e.kubeletTimeout, e.kubeletCert, e.kubeletKey = "fd00::1", "1", 3*time.Second, "/c", "/k"
			}),
		},
		"a duration": {map[string]string{"KUBELET_TIMEOUT": "1m"}, with(func(e *environment) { e.kubeletTimeout = time.Minute })},
	} {
		got, err := readEnvironment(func(name string) string { return c.vars[name] })
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestFaultsOfTheEnvironmentNameTheirVariables(t *testing.T) {
	vars := map[string]string{
		"KUBE_QPS": "many", "KUBE_BURST": "0", "KUBELET_PORT": "65536", "KUBELET_TIMEOUT": "-1", "KUBELET_CLIENT_CERT": "/c",
		"STORAGE_CLASS_SHARE_MOUNT": "yes please", "FS_SHARE_MOUNT": "2", "ENABLE_APISERVER_LIST_CACHE": "on",
	}
	_, err := readEnvironment(func(name string) string { return vars[name] })
	if err == nil {
		t.Fatal("no fault")
	}
	for name := range vars {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named:\n%v", name, err)
		}
	}
}

func TestFaultsOfFlags(t *testing.T) {
	var o Options
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	o.AddFlags(flags)
	if err := flags.Parse([]string{"--node-name=n"}); err != nil {
		t.Fatal(err)
	}
	if err := o.Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	o.KubeletTLS, o.ReconcilerInterval, o.KubeletCA = "off", time.Second, "ca.crt"
	err := o.Validate()
	for _, flag := range []string{"--kubelet-tls", "--reconciler-interval", "--kubelet-ca"} {
		if err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s is not named: %v", flag, err)
		}
	}
}

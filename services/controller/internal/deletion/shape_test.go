package deletion

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/controller/internal/installation"
)

// TestJobsGetWhatTheConfigMapAdds checks that a Job has the credentials of mount
// pods, and none of their caches.
func TestJobsGetWhatTheConfigMapAdds(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.yaml")
	err := os.WriteFile(config, []byte(`
mountPodPatch:
- runAsUser: 1000
  cacheDirs: [{type: PVC, name: cache}, {type: HostPath, path: /mnt/cache}]
  volumes: [{name: launcher, secret: {secretName: gcs}}]
  volumeMounts: [{name: launcher, mountPath: /root/.gcs, readOnly: true}]
  env: [{name: REGION, valueFrom: {secretKeyRef: {name: s, key: k}}}, {name: ZONE, value: z}]
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	v := testVolume()
	v.Attributes["juicefs/mount-cache-emptydir"] = "Memory:1Gi"
	settings, directory, err := settingsFor(installation.Installation{
		ConfigFile: config, Defaults: volume.Defaults{CommunityImage: "client", CacheDir: "/var/jfsCache"},
	}, v)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := plan{path: directory, settings: settings, launcherImage: "launcher"}.podSpec()
	if err != nil {
		t.Fatal(err)
	}
	container := spec.Containers[0]
	if len(container.Env) != 1 || container.Env[0].ValueFrom == nil || !slices.Contains(container.Command, "--pass-env=REGION") {
		t.Errorf("env %v, command %q", container.Env, container.Command)
	}
	at := slices.IndexFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/root/.gcs" })
	if at < 0 || spec.Volumes[at].Name != container.VolumeMounts[at].Name || spec.Volumes[at].Secret.SecretName != "gcs" {
		t.Errorf("mounts %v", container.VolumeMounts)
	}
	if options := settings.Client[4]; !strings.Contains(options, "cache-dir=memory,") || len(settings.Pod.CacheVolumes) > 0 {
		t.Errorf("options %s, cache volumes %v", options, settings.Pod.CacheVolumes)
	}
}

func TestClientsThatNeedAPrivilegeAreRefused(t *testing.T) {
	v := testVolume()
	v.Secret = map[string]string{"name": "ee", "token": "t"}
	if _, _, err := settingsFor(installation.Installation{}, v); !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v, want not implemented", err)
	}
}

package classic

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/juicefs-csi/driver/libs/volume"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
	"github.com/juicefs-csi/driver/services/mountmgr/internal/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestBuildIsThePodOfTheExistingDriver(t *testing.T) {
	secret := map[string]string{
		"name": "myjfs", "metaurl": "redis://:pass%20word@redis.example:6379/1", "storage": "s3", "bucket": "https://b.example/it's",
		"access-key": "id", "secret-key": "key", "envs": `{"AWS_REGION": "x"}`, "encrypt_rsa_key": "-----BEGIN",
	}
	settings, err := volume.Resolve(volume.Inputs{
		VolumeID: "pvc-1", Secret: secret, MountOptions: []string{"cache-size=1024"},
		Attributes: map[string]string{"subPath": "a dir", "capacity": "1073741824"},
		Defaults: volume.Defaults{
			CommunityImage: "juicedata/mount:ce-v1.4.1", MountRoot: "/var/lib/juicefs/volume", CacheDir: "/var/jfsCache",
			ServiceAccount: "juicefs-mount-sa", PriorityClass: "system-node-critical",
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := New(Options{
		Node: "node-1", Namespace: "kube-system", MountRoot: "/var/lib/juicefs/volume", ExchangeDir: "/var/run/juicefs-csi",
	}, Parts{})
	for name, change := range map[string]func(*Start){
		"first": func(s *Start) { s.Fresh, s.ForExistingDriver = true, true },
		"successor": func(s *Start) {
			s.SkipStages, s.Wait, s.SessionID, s.Spec.FileSystemUUID, s.ForExistingDriver = true, true, 7, "uuid-of-fs", true
		},
		"own": func(s *Start) { s.Fresh = true },
	} {
		t.Run(name, func(t *testing.T) {
			start := Start{
				Target: Target{
					MountID: "m1", MountPath: "/var/lib/juicefs/volume/pvc-1-abcdef",
					Client: store.Client{Exchange: "uuid-1", SecretName: SecretName("pvc-1")},
				},
				Spec: mountpod.Spec{
					Name: "juicefs-node-1-pvc-1-abcdef", MountID: "m1", LauncherDir: "/var/lib/juicefs-csi/launcher", Settings: settings,
					Targets: []string{"/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/pvc-1/mount"},
				},
				Credentials: secret,
			}
			change(&start)
			pod, err := n.build(start)
			if err != nil {
				t.Fatal(err)
			}
			secret, err := n.secret(start)
			if err != nil {
				t.Fatal(err)
			}
			if !start.ForExistingDriver {
				secret.Data = nil // Its encoding differs from run to run.
			}
			text, err := yaml.Marshal(map[string]any{"pod": pod, "secret": secret})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, name+".golden", text)
			if !start.ForExistingDriver {
				return
			}
			// What is built is what Parse reads.
			found, err := Parse(pod)
			if err != nil || found.MountName != "pvc-1-abcdef" || found.UniqueID != "pvc-1" || !found.PassesDescriptors ||
				found.SecretName != "juicefs-pvc-1-secret" || len(found.Targets) != 1 {
				t.Errorf("read back: %+v, %v", found, err)
			}
		})
	}
}

func compare(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

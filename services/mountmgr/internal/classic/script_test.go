package classic

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/mountpod"
)

func TestParseScript(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   command
	}{
		"Community": {
			"/usr/local/bin/juicefs format --storage=s3 --bucket=http://b --access-key=a --secret-key=${secretkey} ${metaurl} name\n" +
				"exec /bin/mount.juicefs ${metaurl} /jfs/pvc-1-abcdef -o metrics=0.0.0.0:9567,cache-dir=/a:/b",
			command{
				path: "/jfs/pvc-1-abcdef", options: "metrics=0.0.0.0:9567,cache-dir=/a:/b",
				format: []string{
					"/usr/local/bin/juicefs", "format", "--storage=s3", "--bucket=http://b", "--access-key=a",
					"--secret-key=${secretkey}", "${metaurl}", "name",
				},
			},
		},
		"Enterprise": {
			"/usr/bin/juicefs auth --token=${token} name --conf-dir=/root/.juicefs\n" +
				"exec /sbin/mount.juicefs name /jfs/pvc-1-abcdef -o foreground,no-update",
			command{
				enterprise: true, path: "/jfs/pvc-1-abcdef", options: "foreground,no-update",
				format: []string{"/usr/bin/juicefs", "auth", "--token=${token}", "name", "--conf-dir=/root/.juicefs"},
			},
		},
		"without exec and options": {"/bin/mount.juicefs ${metaurl} /jfs/x", command{path: "/jfs/x"}},
		"quoted": {
			`exec /bin/mount.juicefs 'redis://h/1?a=b&c' "/jfs/x" -o $'a=it\'s',b=\"`,
			command{path: "/jfs/x", options: `a=it's,b="`},
		},
		"what a shell would run is text": {
			"exec /bin/mount.juicefs ${metaurl} /jfs/x -o '$(reboot)',`id`",
			command{path: "/jfs/x", options: "$(reboot),`id`"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseScript(c.script)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(command{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, bad := range []string{"", "sleep 1", "exec /bin/mount.juicefs", "exec /bin/mount.juicefs ${metaurl} '/jfs/x"} {
		if got, err := parseScript(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
}

func TestQuotedWordsAreReadBackAsTheyWere(t *testing.T) {
	words := []string{
		"plain", "a b", "it's", `"`, "$HOME", "`id`", `\`, "a\tb", "redis://h:1/2?x=(y)&z", "-o", "", "*", "~", "a;b", "#",
	}
	line := quoteAll(words)
	got, err := splitWords(line)
	if err != nil || !slices.Equal(got, words) {
		t.Errorf("%s: %q, %v", line, got, err)
	}
}

func foreignPod(change func(*corev1.Pod)) *corev1.Pod {
	target := "/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pvc-1/mount"
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "juicefs-node-pvc-1-abcdef",
			Labels: map[string]string{
				mountpod.NameLabel: mountpod.NameValue, mountpod.UniqueIDLabel: "pvc-1", mountpod.HashLabel: "hash", UpgradeUUIDLabel: "uuid-1",
			},
			Annotations: map[string]string{
				mountpod.ReferenceKey(target): target,
				// A key that is not made of its value is no reference.
				"juicefs-0000000000000000000000000000000000000000000000000000000": "/etc",
				"juicefs-uuid": "/not/a/reference",
			},
		},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "jfs-mount", Image: "juicedata/mount:ce-v1.3.1",
			Command: []string{"sh", "-c", "exec /bin/mount.juicefs ${metaurl} /jfs/pvc-1-abcdef -o ro"},
			Env:     []corev1.EnvVar{{Name: "JFS_SUPER_COMM", Value: "/tmp/fuse_fd_csi_comm.sock"}},
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: "juicefs-pvc-1-secret"},
			}}},
		}}},
	}
	change(pod)
	return pod
}

func TestParseAMountPodOfTheExistingDriver(t *testing.T) {
	got, err := Parse(foreignPod(func(*corev1.Pod) {}))
	if err != nil {
		t.Fatal(err)
	}
	want := Found{
		UniqueID: "pvc-1", MountName: "pvc-1-abcdef", Exchange: "uuid-1", PassesDescriptors: true, Options: "ro",
		Image: "juicedata/mount:ce-v1.3.1", SecretName: "juicefs-pvc-1-secret",
		Targets: []string{"/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/pvc-1/mount"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	old, err := Parse(foreignPod(func(p *corev1.Pod) { delete(p.Labels, UpgradeUUIDLabel) }))
	if err != nil || old.Exchange != "hash" {
		t.Errorf("without a uuid the hash names the directory: %+v, %v", old, err)
	}
}

func TestPodsThatAreNotAdopted(t *testing.T) {
	command := func(script string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh", "-c", script} }
	}
	for name, change := range map[string]func(*corev1.Pod){
		"no container of that name": func(p *corev1.Pod) { p.Spec.Containers[0].Name = "other" },
		"no command":                func(p *corev1.Pod) { p.Spec.Containers[0].Command = nil },
		"another command":           command("sleep 1"),
		"a mount elsewhere":         command("exec /bin/mount.juicefs m /mnt/x -o a"),
		"a path upwards":            command("exec /bin/mount.juicefs m /jfs/.. -o a"),
		"a deep path":               command("exec /bin/mount.juicefs m /jfs/a/b -o a"),
		"a directory upwards":       func(p *corev1.Pod) { p.Labels[UpgradeUUIDLabel] = "../../etc" },
		"host process ids":          func(p *corev1.Pod) { p.Spec.HostPID = true },
		"no unique id":              func(p *corev1.Pod) { delete(p.Labels, mountpod.UniqueIDLabel) },
	} {
		if got, err := Parse(foreignPod(change)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestSecretData(t *testing.T) {
	found := Found{Format: strings.Fields(
		"juicefs format --storage=s3 --bucket=http://b --access-key=id --secret-key=${secretkey} ${metaurl} fs")}
	got := found.SecretData("fs", map[string][]byte{
		"metaurl": []byte("redis://h/1"), "secretkey": []byte("s"), "AWS_REGION": []byte("x"), "check_mount.sh": []byte("exit"),
		"jfsSettings": []byte("{}"), "rsa-key.pem": []byte("k"),
	})
	want := map[string]string{
		"name": "fs", "metaurl": "redis://h/1", "storage": "s3", "bucket": "http://b", "access-key": "id", "secret-key": "s",
		"envs": `{"AWS_REGION":"x"}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

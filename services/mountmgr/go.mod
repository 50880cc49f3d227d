module github.com/juicefs-csi/driver/services/mountmgr

go 1.26.0

require (
	github.com/juicefs-csi/driver/libs v0.0.0
	github.com/juicefs-csi/driver/proto v0.0.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	go.etcd.io/bbolt v1.5.0
	golang.org/x/sys v0.48.0
	github.com/containerd/errdefs v1.0.0
	github.com/spf13/pflag v1.0.10
	github.com/google/go-cmp v0.7.0
	github.com/prometheus/client_golang v1.24.1
)

replace (
	github.com/juicefs-csi/driver/libs => ../../libs
	github.com/juicefs-csi/driver/proto => ../../proto
)

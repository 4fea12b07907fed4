// Writes kafka-4.3.0.txt beside it: what Apache Kafka's own classes make of the records in test_records.py.
//
//   one line a record: name, version of the value, key, value; in hexadecimal
//
// With kafka-group-coordinator, kafka-share-coordinator and kafka-transaction-coordinator 4.3.0 of the group
// org.apache.kafka, and what they depend on, copied to jars/ by `mvn dependency:copy-dependencies`:
//
//   java -cp 'jars/*' Golden.java > kafka-4.3.0.txt

import java.util.HexFormat;
import java.util.List;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.common.protocol.MessageUtil;
import org.apache.kafka.common.protocol.types.RawTaggedField;
import org.apache.kafka.coordinator.group.generated.*;
import org.apache.kafka.coordinator.share.generated.*;
import org.apache.kafka.coordinator.transaction.generated.TransactionLogKey;
import org.apache.kafka.coordinator.transaction.generated.TransactionLogValue;

public class Golden {
    static final Uuid ONE = new Uuid(0x0102030405060708L, 0x090a0b0c0d0e0f10L);
    static final Uuid TWO = new Uuid(-1L, 2L);
    static final long NOON = 1357041600000L;
    static final String GROUP = "größe";
    static final String MEMBER = "member-1";

    static void put(String name, int version, ApiMessage key, ApiMessage value) {
        HexFormat hex = HexFormat.of();
        System.out.println(name + " " + version
            + " " + hex.formatHex(MessageUtil.toCoordinatorTypePrefixedBytes(key))
            + " " + hex.formatHex(MessageUtil.toVersionPrefixedBytes((short) version, value)));
    }

    public static void main(String[] args) {
        offsets();
        classic();
        consumerGroup();
        member();
        assignments();
        shareGroup();
        sharePartition();
        transactions();
    }

    static void offsets() {
        OffsetCommitKey key = new OffsetCommitKey().setGroup(GROUP).setTopic("orders").setPartition(3);
        OffsetCommitValue bare = new OffsetCommitValue().setOffset(42).setMetadata("").setCommitTimestamp(NOON);
        for (int version : new int[] {0, 2, 3, 4})
            put("offset_bare", version, key, bare);
        OffsetCommitValue full = new OffsetCommitValue().setOffset(Long.MAX_VALUE).setLeaderEpoch(7)
            .setMetadata("é".repeat(100)).setCommitTimestamp(NOON).setTopicId(ONE);
        put("offset_full", 4, key, full);
        put("offset_topic_id", 4, key, bare.duplicate().setTopicId(ONE).setLeaderEpoch(0));
        put("offset_metadata", 4, key, bare.duplicate().setMetadata("m"));
        put("offset_expires", 1, key, bare.duplicate().setExpireTimestamp(NOON + 1));
        LegacyOffsetCommitKey old = new LegacyOffsetCommitKey().setGroup(GROUP).setTopic("orders").setPartition(3);
        put("offset_legacy", 0, old,
            new LegacyOffsetCommitValue().setOffset(42).setMetadata("").setCommitTimestamp(NOON));
    }

    static void classic() {
        GroupMetadataKey key = new GroupMetadataKey().setGroup(GROUP);
        GroupMetadataValue empty = new GroupMetadataValue().setProtocolType("").setGeneration(0)
            .setProtocol(null).setLeader(null).setMembers(List.of());
        GroupMetadataValue full = new GroupMetadataValue().setProtocolType("consumer").setGeneration(5)
            .setProtocol("range").setLeader(MEMBER).setMembers(List.of(
                new GroupMetadataValue.MemberMetadata().setMemberId(MEMBER).setClientId("c")
                    .setClientHost("/127.0.0.1").setSessionTimeout(45000)
                    .setSubscription(new byte[] {1, 2, 3}).setAssignment(new byte[0])));
        for (int version : new int[] {0, 1, 2, 3, 4}) {
            put("classic_empty", version, key, empty);
            put("classic_full", version, key, full);
        }
        GroupMetadataValue newest = full.duplicate().setCurrentStateTimestamp(NOON);
        newest.members().get(0).setGroupInstanceId("i").setRebalanceTimeout(300000);
        put("classic_newest", 3, key, newest);
        put("classic_newest", 4, key, newest);
    }

    static void consumerGroup() {
        ConsumerGroupMetadataKey key = new ConsumerGroupMetadataKey().setGroupId(GROUP);
        put("group", 0, key, new ConsumerGroupMetadataValue().setEpoch(9));
        put("group_hash", 0, key, new ConsumerGroupMetadataValue().setEpoch(9).setMetadataHash(-3));
        ConsumerGroupMetadataValue later = new ConsumerGroupMetadataValue().setEpoch(9).setMetadataHash(-3);
        later.unknownTaggedFields().add(new RawTaggedField(5, new byte[] {1, 2}));
        later.unknownTaggedFields().add(new RawTaggedField(300, new byte[200]));
        put("group_later", 0, key, later);
        put("group_topics", 0, new ConsumerGroupPartitionMetadataKey().setGroupId(GROUP),
            new ConsumerGroupPartitionMetadataValue().setTopics(List.of(
                new ConsumerGroupPartitionMetadataValue.TopicMetadata().setTopicId(ONE).setTopicName("orders")
                    .setNumPartitions(2).setPartitionMetadata(List.of(
                        new ConsumerGroupPartitionMetadataValue.PartitionMetadata().setPartition(1)
                            .setRacks(List.of("a", "b")))),
                new ConsumerGroupPartitionMetadataValue.TopicMetadata().setTopicId(TWO).setTopicName("pages")
                    .setNumPartitions(1))));
        put("regex", 0,
            new ConsumerGroupRegularExpressionKey().setGroupId(GROUP).setRegularExpression("order.*"),
            new ConsumerGroupRegularExpressionValue().setTopics(List.of("orders", "orders-2"))
                .setVersion(11).setTimestamp(NOON));
    }

    static void member() {
        ConsumerGroupMemberMetadataKey key = new ConsumerGroupMemberMetadataKey().setGroupId(GROUP).setMemberId(MEMBER);
        put("member_bare", 0, key, new ConsumerGroupMemberMetadataValue().setInstanceId(null).setRackId(null)
            .setSubscribedTopicRegex(null).setServerAssignor(null));
        ConsumerGroupMemberMetadataValue full = new ConsumerGroupMemberMetadataValue().setInstanceId("i")
            .setRackId("r").setClientId("c").setClientHost("/127.0.0.1")
            .setSubscribedTopicNames(List.of("orders", "pages")).setSubscribedTopicRegex("a|b")
            .setRebalanceTimeoutMs(300000).setServerAssignor("uniform");
        put("member_full", 0, key, full);
        put("member_classic", 0, key, full.duplicate().setClassicMemberMetadata(
            new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata().setSessionTimeoutMs(45000)
                .setSupportedProtocols(List.of(new ConsumerGroupMemberMetadataValue.ClassicProtocol()
                    .setName("range").setMetadata(new byte[] {9, 8})))));
    }

    static void assignments() {
        ConsumerGroupTargetAssignmentMetadataKey target =
            new ConsumerGroupTargetAssignmentMetadataKey().setGroupId(GROUP);
        put("target", 0, target, new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(9));
        put("target_time", 0, target,
            new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(9).setAssignmentTimestamp(NOON));
        put("target_member", 0,
            new ConsumerGroupTargetAssignmentMemberKey().setGroupId(GROUP).setMemberId(MEMBER),
            new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of(
                new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(ONE)
                    .setPartitions(List.of(0, 2, Integer.MAX_VALUE)),
                new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(TWO)
                    .setPartitions(List.of()))));
        ConsumerGroupCurrentMemberAssignmentKey key =
            new ConsumerGroupCurrentMemberAssignmentKey().setGroupId(GROUP).setMemberId(MEMBER);
        put("current_bare", 0, key, new ConsumerGroupCurrentMemberAssignmentValue());
        put("current_full", 0, key, current(List.of()));
        put("current_epochs", 0, key, current(List.of(8, 9)));
    }

    static ConsumerGroupCurrentMemberAssignmentValue current(List<Integer> epochs) {
        return new ConsumerGroupCurrentMemberAssignmentValue()
            .setMemberEpoch(9).setPreviousMemberEpoch(8).setState((byte) 1)
            .setAssignedPartitions(List.of(new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions()
                .setTopicId(ONE).setPartitions(List.of(0, 1)).setAssignmentEpochs(epochs)))
            .setPartitionsPendingRevocation(List.of(new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions()
                .setTopicId(TWO).setPartitions(List.of(4))));
    }

    static void shareGroup() {
        put("share_member", 0,
            new ShareGroupMemberMetadataKey().setGroupId(GROUP).setMemberId(MEMBER),
            new ShareGroupMemberMetadataValue().setRackId(null).setClientId("c").setClientHost("h")
                .setSubscribedTopicNames(List.of("orders")));
        put("share_group", 0, new ShareGroupMetadataKey().setGroupId(GROUP),
            new ShareGroupMetadataValue().setEpoch(3).setMetadataHash(5));
        put("share_target", 0, new ShareGroupTargetAssignmentMetadataKey().setGroupId(GROUP),
            new ShareGroupTargetAssignmentMetadataValue().setAssignmentEpoch(3).setAssignmentTimestamp(NOON));
        put("share_target_member", 0,
            new ShareGroupTargetAssignmentMemberKey().setGroupId(GROUP).setMemberId(MEMBER),
            new ShareGroupTargetAssignmentMemberValue().setTopicPartitions(List.of(
                new ShareGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(ONE).setPartitions(List.of(1)))));
        put("share_current", 0,
            new ShareGroupCurrentMemberAssignmentKey().setGroupId(GROUP).setMemberId(MEMBER),
            new ShareGroupCurrentMemberAssignmentValue().setMemberEpoch(3).setPreviousMemberEpoch(2)
                .setState((byte) 0).setAssignedPartitions(List.of(
                    new ShareGroupCurrentMemberAssignmentValue.TopicPartitions()
                        .setTopicId(ONE).setPartitions(List.of(1)))));
        put("share_state_partitions", 0, new ShareGroupStatePartitionMetadataKey().setGroupId(GROUP),
            new ShareGroupStatePartitionMetadataValue()
                .setInitializingTopics(List.of(new ShareGroupStatePartitionMetadataValue.TopicPartitionsInfo()
                    .setTopicId(ONE).setTopicName("orders").setPartitions(List.of(0, 1))))
                .setInitializedTopics(List.of())
                .setDeletingTopics(List.of(new ShareGroupStatePartitionMetadataValue.TopicInfo()
                    .setTopicId(TWO).setTopicName("pages"))));
    }

    static void sharePartition() {
        ShareSnapshotKey snapshot = new ShareSnapshotKey().setGroupId(GROUP).setTopicId(ONE).setPartition(1);
        put("share_snapshot_bare", 0, snapshot, new ShareSnapshotValue());
        put("share_snapshot", 0, snapshot, new ShareSnapshotValue().setSnapshotEpoch(1).setStateEpoch(2)
            .setLeaderEpoch(3).setStartOffset(1L << 40).setDeliveryCompleteCount(6).setCreateTimestamp(NOON)
            .setWriteTimestamp(NOON + 1).setStateBatches(List.of(
                new ShareSnapshotValue.StateBatch().setFirstOffset(10).setLastOffset(19)
                    .setDeliveryState((byte) 0).setDeliveryCount((short) 2),
                new ShareSnapshotValue.StateBatch().setFirstOffset(20).setLastOffset(20)
                    .setDeliveryState((byte) 4).setDeliveryCount((short) 5))));
        put("share_update", 0, new ShareUpdateKey().setGroupId(GROUP).setTopicId(ONE).setPartition(1),
            new ShareUpdateValue().setSnapshotEpoch(1).setLeaderEpoch(3).setStartOffset(-1).setStateBatches(List.of(
                new ShareUpdateValue.StateBatch().setFirstOffset(10).setLastOffset(19)
                    .setDeliveryState((byte) 2).setDeliveryCount((short) 1))));
    }

    static void transactions() {
        TransactionLogKey key = new TransactionLogKey().setTransactionalId("payments-1");
        TransactionLogValue empty = new TransactionLogValue().setProducerId(7).setProducerEpoch((short) 2)
            .setTransactionTimeoutMs(60000).setTransactionStatus((byte) 0).setTransactionPartitions(null)
            .setTransactionLastUpdateTimestampMs(NOON).setTransactionStartTimestampMs(-1);
        TransactionLogValue ongoing = empty.duplicate().setTransactionStatus((byte) 1)
            .setTransactionPartitions(List.of(
                new TransactionLogValue.PartitionsSchema().setTopic("orders").setPartitionIds(List.of(0, 3)),
                new TransactionLogValue.PartitionsSchema().setTopic("pages").setPartitionIds(List.of(1))));
        for (int version : new int[] {0, 1}) {
            put("transaction_empty", version, key, empty);
            put("transaction_ongoing", version, key, ongoing);
        }
        put("transaction_full", 1, key, ongoing.duplicate().setPreviousProducerId(5).setNextProducerId(9)
            .setNextProducerEpoch((short) 0).setClientTransactionVersion((short) 2));
    }
}

//! The scenes that the quickstart trains on.

use scrl_tests::Dir;

#[test]
fn the_same_seed_draws_the_same_scenes_and_another_seed_others() {
    let dir = Dir::new();
    for (folder, seed) in [("a", 0), ("b", 0), ("c", 1)] {
        dir.make_scenes(&format!("{folder} --images 2 --val 1 --size 96x80 --seed {seed}"))
            .succeeds();
    }
    dir.assert_same("a", "b");
    assert_ne!(dir.read("a/train2017/000000000001.jpg"), dir.read("c/train2017/000000000001.jpg"));
}

#[test]
fn boxes_lie_in_their_images_and_belong_to_a_category() {
    let dir = Dir::new();
    dir.make_scenes("scenes --images 4 --val 0").succeeds();
    let list: serde_json::Value =
        serde_json::from_str(&dir.text("scenes/instances_train2017.json")).unwrap();
    let categories: Vec<&serde_json::Value> =
        list["categories"].as_array().unwrap().iter().map(|category| &category["id"]).collect();
    let boxes = list["annotations"].as_array().unwrap();
    assert_eq!(list["images"].as_array().unwrap().len(), 4);
    assert!(categories.len() >= 6 && boxes.len() >= 8);
    for annotation in boxes {
        let [x, y, width, height] =
            [0, 1, 2, 3].map(|side| annotation["bbox"][side].as_u64().unwrap());
        let area = annotation["area"].as_u64().unwrap();
        assert!(
            x + width <= 320 && y + height <= 240 && 0 < area && area <= width * height,
            "{annotation}"
        );
        assert!(categories.contains(&&annotation["category_id"]) && annotation["iscrowd"] == 0);
    }
}
